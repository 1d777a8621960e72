import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import forked
import optax
import pytest
import small_state
from small_state import (
    KEEP_ALL,
    assert_trees_equal,
    flip_bit,
    params_at,
    restore,
    save,
    save_last,
    state_at,
)

from palmscale.checkpoint import digest
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.policy import KeepPolicy, Retries
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.steps import StepFolders
from palmscale.checkpoint.store import CheckpointStore
from palmscale.errors import CorruptionError, NotSaved, UserError


@pytest.fixture
def store(tmp_path):
    with Lease(tmp_path) as lease:
        with CheckpointStore(tmp_path / "checkpoints", keep=KEEP_ALL, lease=lease) as opened:
            yield opened


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A workdir with the verified steps 10 and 20, to be copied."""
    workdir = tmp_path_factory.mktemp("two_steps")
    with Lease(workdir) as lease, CheckpointStore(workdir / "checkpoints", lease=lease) as opened:
        save(opened, 10)
        save(opened, 20)
    return workdir / "checkpoints"


def test_what_was_saved_comes_back(store):
    save(store, 20)
    store.wait()
    snapshot = restore(store)
    assert snapshot.step == 20
    assert snapshot.cursor == {"row": 200}
    assert snapshot.meta == {"step": 20} == store.read_meta()
    assert_trees_equal(snapshot.params, params_at(20))
    assert_trees_equal(snapshot.optimizer_state, state_at(20))


def test_damaged_step_is_replaced_when_training_comes_by_again(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path / "checkpoints")
    flip_bit(tmp_path / "checkpoints/20/cursor.json")
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "checkpoints", lease=lease) as store:
        assert restore(store).step == 10
        assert [info.state for info in store.steps()] == ["verified", "corrupt"]
        save(store, 20)
        store.wait()
        assert restore(store).step == 20


def test_nothing_usable_is_an_error_and_stays_one(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path / "checkpoints")
    for step in "10", "20":
        flip_bit(tmp_path / "checkpoints" / step / "meta.json")
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "checkpoints", lease=lease) as store:
        for _ in range(2):
            with pytest.raises(CorruptionError):
                restore(store)


def test_steps_that_lost_their_markers_count_again_and_never_begin_anew(
    two_steps, tmp_path, caplog
):
    shutil.copytree(two_steps, tmp_path / "checkpoints")
    for step in "10", "20":
        (tmp_path / "checkpoints" / step / "VERIFIED").unlink()
    flip_bit(tmp_path / "checkpoints/20/meta.json")
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "checkpoints", lease=lease) as store:
        assert store.read_meta() == {"step": 10}
        assert restore(store).step == 10
        assert "step 10 had no VERIFIED; all of its files match its MANIFEST.json" in caplog.text
        assert "step 20 had no" not in caplog.text
    (tmp_path / "checkpoints/10/VERIFIED").unlink()
    flip_bit(tmp_path / "checkpoints/10/meta.json")
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "checkpoints", lease=lease) as store:
        with pytest.raises(CorruptionError, match=r"all checkpoints .* are damaged \(10, 20\)"):
            restore(store)


def test_a_clock_a_year_ahead_changes_nothing_of_what_is_kept(tmp_path, monkeypatch):
    year, keep = 3.2e7, KeepPolicy(latest=1, every_seconds=100, best=0)
    clock = SimpleNamespace(now=1000.0, wrong=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    monkeypatch.setattr("time.time", lambda: 1e9 + clock.now + clock.wrong)
    kept = {}
    for name, wrong in (("right", {}), ("ahead", {2: year, 3: year}), ("behind", {4: -year})):
        for attempt in ((1, 2, 3), (4, 5, 6, 7)):  # the second one resumes
            with (
                Lease(tmp_path / name) as lease,
                CheckpointStore(tmp_path / name / "c", keep=keep, lease=lease) as store,
            ):
                restore(store)
                for step in attempt:
                    clock.now += 60
                    clock.wrong = wrong.get(step, 0)
                    save(store, step)
                    store.wait()
                kept[name] = [info.step for info in store.steps()]
    monkeypatch.undo()
    assert kept["right"] == kept["ahead"] == kept["behind"] == [1, 3, 5, 7]


def test_the_last_save_is_tried_again_until_the_step_is_verified(store, monkeypatch, caplog):
    monkeypatch.setattr("time.sleep", lambda seconds: tries.append(seconds))
    tries = []
    right = digest.write_manifest

    def full_at_first(*arguments):
        if len(tries) < 2:
            raise OSError(28, "No space left on device")
        right(*arguments)

    monkeypatch.setattr("palmscale.checkpoint.digest.write_manifest", full_at_first)
    save_last(store, 10)
    assert tries == [1, 2] and store.verified_steps() == [10]
    monkeypatch.setattr("palmscale.checkpoint.digest.write_manifest", failing)
    tries.clear()
    store._retries = Retries(failures=10**6, wait_seconds=7)
    with pytest.raises(NotSaved):
        save_last(store, 20)
    assert tries == [1, 2, 4, 7, 7]
    assert "step 10 was not saved: [Errno 28] No space left on device; trying again in 1 s" in (
        caplog.text
    )


@pytest.mark.parametrize("fault", ["full", "removed", "moved", "raises", "lists nothing"])
def test_a_last_save_that_fails_names_the_last_good_step(fault, tmp_path, monkeypatch):
    retries = Retries(failures=1, wait_seconds=0)
    with Lease(tmp_path / "run") as lease:
        directory = tmp_path / "run/checkpoints"
        with CheckpointStore(directory, lease=lease, retries=retries) as store:
            save(store, 10)
            store.wait()
            rest = "the last good checkpoint is step 10"
            match fault:
                case "full":
                    monkeypatch.setattr("palmscale.checkpoint.digest.write_manifest", failing)
                case "removed" | "moved":
                    (tmp_path / "run").rename(tmp_path / "moved")
                    rest = f"{directory} is gone"
                case "raises":
                    monkeypatch.setattr("palmscale.checkpoint.commit.save_arrays", failing)
                case "lists nothing":
                    monkeypatch.setattr("palmscale.checkpoint.digest.names", lambda folder: [])
            with pytest.raises(NotSaved, match=f"step 20 was not saved: .*; {rest}$"):
                save_last(store, 20)
            if fault == "moved":
                assert not (tmp_path / "run").exists()
            else:
                assert store.verified_steps() == [10] or fault == "removed"


def test_unfinished_step_is_skipped_then_replaced_and_cleaned(two_steps, tmp_path, caplog):
    shutil.copytree(two_steps, tmp_path / "checkpoints")
    (tmp_path / "checkpoints/20/VERIFIED").unlink()
    (tmp_path / "checkpoints/30.orbax-checkpoint-tmp/params").mkdir(parents=True)
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "checkpoints", lease=lease) as store:
        assert not (tmp_path / "checkpoints/30.orbax-checkpoint-tmp").exists()
        with caplog.at_level("INFO"):
            assert restore(store).step == 10
        assert "step 20 was never finished" in caplog.text
        save(store, 20)
        store.wait()
        assert store.latest_verified() == 20
        (tmp_path / "checkpoints/20/VERIFIED").unlink()
        save(store, 30)
        store.wait()
        assert [info.step for info in store.steps()] == [10, 30]


def test_keep_policy_is_applied_after_each_save(tmp_path):
    keep = KeepPolicy(latest=1, every_steps=4, best=1)
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "c", keep=keep, lease=lease) as store:
        store.protect([1])
        for step, bits in [(1, 5.0), (2, 1.0), (3, 3.0), (4, 3.0), (5, 3.0), (6, 3.0)]:
            save(store, step, metrics={"eval_loss": bits})
        store.wait()
        assert [info.step for info in store.steps()] == [1, 2, 4, 6]
        store.discard_newer(2)
        assert [(info.step, info.metrics["eval_loss"]) for info in store.steps()] == [
            (1, 5.0),
            (2, 1.0),
        ]
        assert all(info.bytes > 0 and abs(info.time - time.time()) < 600 for info in store.steps())


def test_same_step_and_arrays_are_not_written_twice_and_others_are(store):
    save(store, 10)
    store.wait()
    before = (store.directory / "10/VERIFIED").stat().st_mtime_ns
    save(store, 10)
    store.wait()
    assert (store.directory / "10/VERIFIED").stat().st_mtime_ns == before
    save(store, 10, params=params_at(11))
    store.wait()
    assert_trees_equal(restore(store).params, params_at(11))


def test_failed_save_warns_at_the_next_one_and_the_run_lives(store, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("palmscale.checkpoint.digest.write_manifest", full)
        save(store, 10)
        store._pending[1].exception()  # waits; reports nothing
    save(store, 20)
    assert "step 10 was not saved: [Errno 28] No space left on device" in caplog.text
    store.wait()
    assert [(info.step, info.verified) for info in store.steps()] == [(20, True)]
    monkeypatch.setattr("palmscale.checkpoint.digest.write_manifest", full)
    save(store, 30)
    with pytest.raises(RuntimeError, match="step 30 was not saved"):
        store.wait()
    assert not (store.directory / "30").exists()


def failing(*_):
    raise OSError(28, "No space left on device")


def test_after_more_failures_in_a_row_than_allowed_the_run_ends_with_the_reason(
    tmp_path, monkeypatch, caplog
):
    with Lease(tmp_path) as lease:
        with CheckpointStore(tmp_path / "c", lease=lease, retries=Retries(failures=2)) as store:
            save(store, 10)
            store.wait()
            with monkeypatch.context() as patched:
                patched.setattr("palmscale.checkpoint.digest.write_manifest", failing)
                for step in (20, 30):
                    save(store, step)
                    store._pending[1].exception()
                    store.poll()
            save(store, 40)  # A good one in between: failures count from the beginning.
            store.wait()
            monkeypatch.setattr("palmscale.checkpoint.digest.write_manifest", failing)
            save(store, 50)
            save(store, 60)
            save(store, 70)
            assert caplog.text.count("The run continues and will save again") == 4
            assert "step 60 was not saved: [Errno 28] No space left on device; the last good" in (
                caplog.text
            )
            with pytest.raises(
                RuntimeError, match="good checkpoint is step 40. 3 consecutive save.s. failed"
            ):
                store.restore(abstract_params=None)
            assert [info.step for info in store.steps()] == [10, 40]


def test_a_full_or_unwritable_disk_is_seen_before_anything_is_written(store, monkeypatch, caplog):
    usage = shutil.disk_usage(store.directory)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    save(store, 10)
    assert re.search(
        r"step 10 was not saved: No space left: .* 100 bytes free; [\d,]+ are", caplog.text
    )
    assert "there is no earlier one. The run continues" in caplog.text
    store.wait()
    assert not list(store.directory.iterdir())


def test_a_good_step_that_is_to_be_replaced_stays_where_there_is_no_room(store, monkeypatch):
    save(store, 10)
    store.wait()
    usage = shutil.disk_usage(store.directory)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    save(store, 10, params=params_at(11))
    assert_trees_equal(restore(store).params, params_at(10))


def test_a_step_is_saved_also_where_older_ones_cannot_be_deleted(tmp_path, monkeypatch, caplog):
    keep = KeepPolicy(latest=1, best=0)
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "c", keep=keep, lease=lease) as store:
        save(store, 1)
        store.wait()

        def refuse(path, *arguments, **keywords):
            raise PermissionError(13, "Permission denied", str(path))

        with monkeypatch.context() as patched:
            patched.setattr("shutil.rmtree", refuse)
            patched.setattr("pathlib.Path.rename", refuse)
            save(store, 2)
            store.wait()
        assert "older checkpoints were not deleted: [Errno 13]" in caplog.text
        assert [info.step for info in store.steps() if info.verified] == [1, 2]


def test_an_error_of_orbax_itself_is_a_failed_save(store, monkeypatch):
    def start(*_):
        raise ValueError("no such driver\nmany lines")

    monkeypatch.setattr("palmscale.checkpoint.commit.save_arrays", start)
    save(store, 10)
    with pytest.raises(RuntimeError, match="step 10 was not saved: no such driver$"):
        store.wait()


def test_a_save_is_due_by_the_clock_and_soon_after_a_failure(store, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)
    store._last_try = now
    assert not store.is_save_due(60.0) and not store.is_save_due(None)
    now += 61
    assert store.is_save_due(60.0) and not store.is_save_due(None)
    with monkeypatch.context() as patched:
        patched.setattr("palmscale.checkpoint.digest.write_manifest", failing)
        save(store, 10)
        store._pending[1].exception()
        store.poll()
    assert not store.is_save_due(None)
    now += 61
    assert store.is_save_due(None)
    save(store, 11)
    store.wait()
    now += 61
    assert not store.is_save_due(None)


def test_pinned_steps_outlive_the_policy_and_are_set_aside_where_their_course_is_given_up(
    tmp_path, caplog
):
    keep = KeepPolicy(latest=1, best=0)
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "c", keep=keep, lease=lease) as store:
        save(store, 1)
        store.wait()
        StepFolders(tmp_path / "c").pin(1)
        for step in (2, 3):
            save(store, step)
        store.wait()
        assert [info.step for info in store.steps() if info.verified] == [1, 3]
        StepFolders(tmp_path / "c").pin(3)
        store.discard_newer(1)
        assert [info.step for info in store.steps()] == [1]
        assert "pinned checkpoint of step 3" in caplog.text
        assert restore(CheckpointReader(tmp_path / "c/set_aside"), 3).step == 3


def test_a_storage_that_shows_nothing_either_fails_a_save_and_not_the_run(
    tmp_path, monkeypatch, caplog
):
    with Lease(tmp_path) as lease:
        with CheckpointStore(tmp_path / "c", lease=lease, retries=Retries(failures=1)) as store:
            save(store, 10)
            store.wait()
            with monkeypatch.context() as patched:
                for what in ("state", "steps"):
                    patched.setattr(f"palmscale.checkpoint.steps.StepFolders.{what}", failing)
                save(store, 20)
                assert "step 20 was not saved: " in caplog.text
                assert "cannot be listed at the moment. The run continues" in caplog.text
                with pytest.raises(RuntimeError, match="2 consecutive save.s. failed"):
                    save(store, 30)
            assert store.verified_steps() == [10]


def test_an_error_in_flight_is_not_hidden_by_a_failed_save(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("palmscale.checkpoint.digest.write_manifest", failing)
    with Lease(tmp_path) as lease, pytest.raises(KeyError):
        with CheckpointStore(tmp_path, lease=lease, retries=Retries(failures=0)) as store:
            save(store, 10)
            raise KeyError
    assert "step 10 was not saved" in caplog.text


def test_damage_between_memory_and_disk_is_seen_by_the_fingerprint(store, monkeypatch):
    right = params_at(10)
    monkeypatch.setattr(
        "palmscale.checkpoint.summary.fingerprint",
        lambda tree: dict.fromkeys(("embed", "scale"), "0" * 16),
    )
    store.save(10, params=right, optimizer_state={}, cursor={}, meta={})
    store.wait()
    with pytest.raises(CorruptionError, match="the array embed was not restored exactly"):
        restore(store, abstract_optimizer_state=None)


def test_an_optimizer_without_arrays_comes_back(store):
    for state in {}, optax.sgd(0.1).init(params_at(0)):
        save(store, 10, optimizer_state=state)
        store.wait()
        assert restore(store, abstract_optimizer_state=state).optimizer_state == state


def test_saving_needs_the_lease(tmp_path):
    with pytest.raises(RuntimeError, match="lease"):
        save(CheckpointStore(tmp_path), 1)


KILLED = """
import sys
sys.path[:0] = [{support!r}]
from small_state import *
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
with Lease({workdir!r}) as lease:
    store = CheckpointStore({workdir!r} + "/checkpoints", lease=lease)
    restore(store)
    print("ready", flush=True)
    for step in range((store.latest_verified() or 0) + 1, 100000):
        save(store, step)
"""


def test_killed_at_any_moment_the_last_verified_step_restores(tmp_path):
    workdir = tmp_path / "run"
    script = KILLED.format(support=os.path.dirname(small_state.__file__), workdir=str(workdir))
    last = 0
    for delay_seconds in (random.uniform(0, 0.1), random.uniform(0, 0.1)):
        with forked.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            reader = CheckpointStore(workdir / "checkpoints")
            while (reader.latest_verified() or 0) <= last:
                time.sleep(0.01)
            time.sleep(delay_seconds)
            with pytest.raises(UserError, match=f"pid {process.pid} "):
                Lease(workdir)
            process.send_signal(signal.SIGKILL)
        with Lease(workdir) as lease, CheckpointStore(reader.directory, lease=lease) as store:
            assert not list(store.directory.glob("*tmp*"))
            snapshot = restore(store)
        assert snapshot.step > last
        assert snapshot.meta == {"step": snapshot.step}
        assert_trees_equal(snapshot.params, params_at(snapshot.step))
        last = snapshot.step


EIGHT_DEVICES = """
import json, sys
sys.path[:0] = [{support!r}]
from small_state import *
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from jax.sharding import NamedSharding, PartitionSpec as P

def mesh(*shape):
    return jax.make_mesh(shape, ("data", "model"), devices=jax.devices()[:np.prod(shape)],
                         axis_types=(jax.sharding.AxisType.Auto,) * 2)

def sharding(shape, leaf):
    return NamedSharding(mesh(*shape), P("data", "model") if len(leaf.shape) == 2 else P())

def placed(shape, tree):
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding(shape, leaf)), tree)

facts = {{}}
params = {{"w": jax.random.normal(jax.random.key(0), (512, 1024)),
          "s": jnp.ones((8,), jnp.bfloat16)}}
saved = jax.tree.map(np.asarray, params)
params = placed((4, 2), params)
state = placed((4, 2), optax.adamw(1e-3).init(params))
double = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2, tree), donate_argnums=0)
with Lease({workdir!r}) as lease:
    with CheckpointStore({workdir!r} + "/checkpoints", lease=lease) as store:
        store.save(7, params=params, optimizer_state=state, cursor={{}}, meta={{}})
        pending = store._pending[1]
        facts["steps_while_saving"] = 0
        while not pending.done() and facts["steps_while_saving"] < 50:
            params = jax.block_until_ready(double(params))
            facts["steps_while_saving"] += 1
        store.wait()
        for shape in (4, 2), (2, 4), (1, 1), (8, 1):
            to = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype,
                                                   sharding=sharding(shape, leaf))
            got = store.restore(abstract_params=jax.tree.map(to, params),
                                abstract_optimizer_state=jax.tree.map(to, state))
            assert_trees_equal(got.params, saved)
            assert_trees_equal(got.optimizer_state, jax.tree.map(np.zeros_like, state))
            w = got.params["w"]
            facts["x".join(map(str, shape))] = [len(w.sharding.device_set),
                                                list(w.addressable_shards[0].data.shape)]
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def on_eight_devices(tmp_path_factory):
    script = EIGHT_DEVICES.format(
        support=os.path.dirname(small_state.__file__), workdir=str(tmp_path_factory.mktemp("eight"))
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    done = forked.run(
        [sys.executable, "-c", script],
        env=os.environ | {"XLA_FLAGS": flags},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_lands_bit_for_bit_on_another_mesh_and_number_of_devices(on_eight_devices):
    assert on_eight_devices["4x2"] == [8, [128, 512]]
    assert on_eight_devices["2x4"] == [8, [256, 256]]
    assert on_eight_devices["1x1"] == [1, [512, 1024]]
    assert on_eight_devices["8x1"] == [8, [64, 1024]]


def test_arrays_donated_right_after_save_are_saved_as_they_were(on_eight_devices):
    assert on_eight_devices["steps_while_saving"] >= 1
