"""Runs on several real processes: they train as one, and end as one whatever befalls them."""

import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny_job
import tiny_run
from tiny_job import AT_STEP, HEARTBEAT_SECONDS, PAIR, QUICK, Job

# Four groups of two: with four processes of two devices, each group of a model axis of four spans
# two processes.
TRAIN_STEPS = 12
MESH = QUICK | {"DATA": 2, "MODEL_PARALLEL": 4, "TRAIN_STEPS": TRAIN_STEPS}


@pytest.fixture(scope="module")
def eight(tiny, text):
    """The arguments of a run on eight devices. As `eval` does, it evaluates all held-out rows."""

    def arguments(workdir, **changes):
        few = {"TEXT_FILES": f"{text}/model_*.txt", "EVAL_SEQUENCES": None}
        return tiny(workdir, **(MESH | few | changes))

    return arguments


@pytest.fixture(scope="module")
def four(eight, tmp_path_factory):
    """The workdir of a run of four processes that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("four") / "run"
    command = eight(workdir, SIMULATED_DEVICES=2)
    with Job(command, workdir / "logs", processes=4) as job:
        job.succeed()
    return workdir


def test_two_and_four_processes_train_to_the_same_bits_also_where_the_model_axis_spans_them(
    eight, four, tmp_path
):
    command = eight(tmp_path / "run", SIMULATED_DEVICES=4)
    with Job(command, tmp_path / "logs", processes=2) as job:
        job.succeed()
    tiny_run.assert_same_end(tmp_path / "run", four)


def test_only_process_0_tells_what_happens(four):
    logs = [(four / f"logs/{index}.log").read_text() for index in range(4)]
    assert f"[0] Trained {TRAIN_STEPS} steps" in logs[0]
    assert not any("step" in line and "Gloo" not in line for line in logs[1].splitlines())


def test_evaluation_on_two_processes_says_what_training_said(four, tmp_path):
    command = ["eval", f"--workdir={four}", "--gin.SIMULATED_DEVICES=4"]
    with Job(command, tmp_path / "logs", processes=2) as job:
        job.succeed()
    said = re.findall(r"(eval_\w+) +([\d.]+)", job.said(0))
    told = {name: float(value) for name, value in said}
    manifest = four / f"checkpoints/{TRAIN_STEPS}/MANIFEST.json"
    saved = json.loads(manifest.read_text())["metrics"]
    assert "eval_loss" in saved
    assert told.pop("eval_perplexity") == pytest.approx(math.exp(saved["eval_loss"]), rel=1e-4)
    assert told == pytest.approx(saved, abs=1e-4)
    assert "eval_loss" not in job.said(1)


def killed_once(command, workdir, logs, chance, processes):
    """Starts the job, kills a process at a random moment, and waits for the others' end."""
    with Job(command, logs, processes=processes) as job:
        done = tiny_job.steps_done(workdir)
        victim = chance.randrange(processes)
        wanted = done + chance.randint(1, 8)
        saving = chance.random() < 0.4
        folders = workdir / "checkpoints"

        def arrived():
            if saving:  # and not what an earlier kill has left
                begun = tiny_job.steps_done(workdir) > done
                return begun and any(folders.glob("*.orbax-checkpoint-tmp*"))
            return tiny_job.steps_done(workdir) >= wanted

        end = time.monotonic() + 120
        while not arrived() and job.processes[victim].poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.2)
        killed = job.send(victim)
        codes = job.wait(HEARTBEAT_SECONDS + 30)
        late = max(moment for _, moment in job.ended.values()) - killed
    if codes[victim] == -9:
        for index in range(processes):
            last_line_of(job, index)
    return codes[victim] == -9, late


def last_line_of(job, index):
    """The line that a process that was ended leaves as its last one, a moment after its end."""
    end = time.monotonic() + 10
    while not (line := job.said(index).rstrip().rpartition("\n")[2]).startswith(
        f"[{index}] palmscale: error: "
    ):
        assert time.monotonic() < end, job.said(index)
        time.sleep(0.05)
    return line


@pytest.mark.parametrize("rounds", [2, pytest.param(25, marks=pytest.mark.long)])
def test_kill_9_of_any_process_at_any_moment_loses_nothing(rounds, tiny, finished, tmp_path):
    steps = {"TRAIN_STEPS": 16 if rounds == 2 else 150, "SAVE_EVERY_STEPS": 3}
    undisturbed = tiny(tmp_path / "undisturbed", **(PAIR | steps))
    with Job(undisturbed, tmp_path / "logs", processes=2) as job:
        job.succeed()
    chance = random.Random(rounds)
    command = tiny(tmp_path / "run", **(PAIR | steps))
    outcomes = [
        killed_once(command, tmp_path / "run", tmp_path / f"logs{number}", chance, 2)
        for number in range(rounds)
    ]
    assert sum(killed for killed, _ in outcomes) >= 0.8 * rounds
    assert all(late < HEARTBEAT_SECONDS + 5 for killed, late in outcomes if killed), outcomes
    with Job(command, tmp_path / "last", processes=2) as job:
        job.succeed()
    tiny_run.assert_same_end(tmp_path / "run", tmp_path / "undisturbed")


def test_sigterm_to_one_process_saves_one_step_on_all_and_asks_for_a_restart(tiny, tmp_path):
    workdir = tmp_path / "run"
    command = tiny(workdir, **(PAIR | {"TRAIN_STEPS": 100_000, "SAVE_EVERY_STEPS": 50_000}))
    with Job(command, tmp_path / "logs", processes=2) as job:
        job.when(lambda: tiny_job.steps_done(workdir) >= 3)
        job.send(1, signal.SIGTERM)
        assert job.wait(60) == [75, 75], job.said(0)
    assert "saved step" in job.said(0)
    assert tiny_run.steps(workdir)[-1] == tiny_job.steps_done(workdir)


def disturbed(tiny, tmp_path, act, **changes):
    """A job of two whose process 1 does something at step 5; exit codes, seconds, and the job."""
    workdir = tmp_path / "run"
    command = tiny(workdir, **(PAIR | {"TRAIN_STEPS": 1000} | changes))
    code = {1: AT_STEP.format(step=5, act=act)}
    with Job(command, tmp_path / "logs", processes=2, code=code) as job:
        job.when(lambda: tiny_job.steps_done(workdir) >= 3)
        reached = time.monotonic()
        codes = job.wait(HEARTBEAT_SECONDS + 60)
    return codes, max(moment for _, moment in job.ended.values()) - reached, job


def test_an_exception_on_one_process_ends_all_at_once_with_its_reason(tiny, tmp_path):
    codes, seconds, job = disturbed(tiny, tmp_path, "raise RuntimeError('a bad disk')")
    assert codes == [1, 1] and seconds < HEARTBEAT_SECONDS + 5
    assert "process 1 on" in job.said(0) and "RuntimeError: a bad disk" in job.said(0)


def test_a_host_that_hangs_is_named_with_its_stack_and_the_job_asks_for_a_restart(tiny, tmp_path):
    codes, seconds, job = disturbed(tiny, tmp_path, "time.sleep(1000)", STEP_SECONDS=6)
    assert codes == [75, 75] and seconds < 6 + HEARTBEAT_SECONDS + 5
    told = job.said(0) + job.said(1)
    assert re.search(r"the others wait for process 1 on \S+\.", told), told
    assert "in disturbed" in job.said(1)


# Flips the lowest bit of an array that each process has a copy of, on this process alone.
FLIP = """
import jax, numpy as np
from palmscale.train.compile import CompiledStep
run = CompiledStep.__call__
def flipping(self, state, batch):
    state, metrics = run(self, state, batch)
    if int(state.step) == 8:
        leaves, tree = jax.tree.flatten(state.params)
        at = next(i for i, a in enumerate(leaves) if a.ndim and a.sharding.is_fully_replicated)
        data = np.array(leaves[at].addressable_shards[0].data)
        data.view(np.uint32).flat[0] ^= 1
        own = [jax.device_put(data, jax.local_devices()[0])]
        a = leaves[at]
        leaves[at] = jax.make_array_from_single_device_arrays(a.shape, a.sharding, own)
        state = state.replace(params=jax.tree.unflatten(tree, leaves))
    return state, metrics
CompiledStep.__call__ = flipping
"""


def test_a_copy_that_differs_on_one_host_ends_the_run_with_its_name(tiny, finished, tmp_path):
    command = tiny(tmp_path / "run", **(PAIR | {"TRAIN_STEPS": 1000, "CHECK_EVERY_STEPS": 4}))
    with Job(command, tmp_path / "logs", processes=2, code={1: FLIP}) as job:
        assert job.wait() == [1, 1], job.said(0)
    found = r"step 8: params/\S+ differs between process 0's \S+ and process 1's"
    assert re.search(found, job.said(0)), job.said(0)


def test_a_stopped_process_is_given_up_after_the_heartbeat(tiny, tmp_path):
    workdir, heartbeat_seconds = tmp_path / "run", 3 * HEARTBEAT_SECONDS
    changes = {"TRAIN_STEPS": 1000, "HEARTBEAT_SECONDS": heartbeat_seconds}
    with Job(tiny(workdir, **(PAIR | changes)), tmp_path / "logs", processes=2) as job:
        job.when(lambda: tiny_job.steps_done(workdir) >= 3)
        stopped = job.send(1, signal.SIGSTOP)
        while job.processes[0].poll() is None:
            assert time.monotonic() < stopped + heartbeat_seconds + 5
            time.sleep(0.05)
        assert job.processes[0].returncode in (75, -signal.SIGABRT)
        assert re.search(r"process 1 on \S+ no longer answer", last_line_of(job, 0))


def test_who_does_not_come_is_named(tiny, tmp_path):
    command = tiny(tmp_path / "run", **(PAIR | {"JOIN_SECONDS": 3}))
    place = {"JAX_NUM_PROCESSES": "4"}
    with Job(command, tmp_path / "logs", processes=2, environment=place) as job:
        assert job.wait(60) == [75, 75]
    for index in range(2):
        assert "process 2, 3 of 4 did not join within 3 s; joined: 0 (" in job.said(index)
        assert "--worker=all" in job.said(index)


def test_what_differs_between_hosts_is_named_before_the_first_step(tiny, tmp_path):
    command = tiny(tmp_path / "run", **PAIR)
    code = {
        1: "import jax, optax, os; import importlib.metadata as m; v = m.version\n"
        "m.version = lambda name: '0.0.1' if name in {'optax', 'libtpu'} else v(name)\n"
        "os.environ['XLA_FLAGS'] += ' --xla_cpu_enable_fast_math=true'\n"
        "jax.config.update('jax_default_matmul_precision', 'highest')"
    }
    with Job(command, tmp_path / "logs", processes=2, code=code) as job:
        assert job.wait(100) == [2, 2]
    assert re.search(
        r"process 0 on \S+ and process 1 on \S+ differ in"
        r" XLA_FLAGS --xla_cpu_enable_fast_math: None and true,"
        r" jax_default_matmul_precision: None and highest,"
        r" the version of libtpu: \S+ and 0\.0\.1, the version of optax: [\d.]+ and 0\.0\.1;",
        job.said(0),
    )
    assert not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("processes", "mesh"),
    [
        (1, {"SIMULATED_DEVICES": 8, "DATA": 8, "MODEL_PARALLEL": 1}),
        (2, {"SIMULATED_DEVICES": 2, "DATA": 1, "MODEL_PARALLEL": 4}),
        (3, {"SIMULATED_DEVICES": 2, "DATA": 3, "MODEL_PARALLEL": 2}),
    ],
)
def test_what_four_processes_saved_comes_back_to_any_number_on_any_mesh(
    processes, mesh, eight, four, tmp_path
):
    workdir = shutil.copytree(four, tmp_path / "run")
    if processes == 3:  # nothing of the model divides by three
        mesh |= {
            "BATCH_SCHEDULE": "((0, 9),)",
            "ALLOW_CHANGES": "('batch_schedule',)",
            "RULE_OVERRIDES": "{'embed': None, 'vocab_embed': None}",
        }
    command = eight(workdir, **(mesh | {"TRAIN_STEPS": TRAIN_STEPS + 1}))
    witness = tmp_path / "witness"
    with Job([*command, f"--step_log={witness}"], tmp_path / "logs", processes=processes) as job:
        job.succeed()
    restored, next_step = tiny_run.witnessed(witness)
    arrays, cursor = tiny_run.saved(four)
    assert restored == {"restored": TRAIN_STEPS, "arrays": tiny_run.fingerprints(arrays)}
    assert next_step["step"] == TRAIN_STEPS
    saved_arrays, saved_cursor = tiny_run.saved(workdir)
    assert tiny_run.shapes(saved_arrays) == tiny_run.shapes(arrays)
    rows = 9 if processes == 3 else 8
    assert saved_cursor == cursor | {
        "step": cursor["step"] + 1,
        "next_row": cursor["next_row"] + rows,
    }


def test_two_processes_generate_what_one_does(four, tmp_path):
    command = ["generate", f"--workdir={four}", "--greedy", "--prompt=def ", "--max_tokens=12"]
    alone = tiny_run.run(*command).stdout
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    with Job(command, tmp_path / "logs", processes=2, environment=flags) as job:
        job.succeed()
    # Gloo's threads write over one another's lines before it: a piece of one may be a lone digit.
    assert job.said(0).rstrip().endswith("\n" + alone.strip())
    assert job.said(0).count("def") == alone.count("def")
    assert "def" not in job.said(1)


def test_two_processes_answer_the_lines_that_a_killed_job_left(four, tmp_path):
    lines = [{"id": n, "prompt": f"def {n}", "temperature": 0} for n in range(6)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["generate", f"--workdir={four}", f"--jsonl={tmp_path / 'in.jsonl'}"]
    command += ["--max_tokens=6", "--slots=4"]
    alone, out = tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    tiny_run.run(*command, f"--out={alone}")
    texts = {told["id"]: told["text"] for told in map(json.loads, alone.open())}
    out.write_text(json.dumps({"id": 2, "text": "kept"}) + '\n{"id": 3, "te')
    with Job([*command, f"--out={out}"], tmp_path / "logs", processes=2) as job:
        job.succeed()
    answers = [(told["id"], told["text"]) for told in map(json.loads, out.open())]
    assert dict(answers) == texts | {2: "kept"} and len(answers) == 6


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is absent")
@pytest.mark.parametrize("version", ["4", pytest.param("5", marks=pytest.mark.long)])
def test_open_mpi_tells_by_itself_how_many_there_are(version, tiny, finished, tmp_path):
    command = tiny(tmp_path / "run", **PAIR)
    # Version 5 differs from the version 4 that is installed in that it tells no address.
    unset = ["env", "-u", "OMPI_MCA_orte_hnp_uri"] if version == "5" else []
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", *unset]
    done = subprocess.run(
        [*mpirun, sys.executable, "-m", "palmscale", *command],
        capture_output=True,
        text=True,
        cwd=tiny_run.CHECKOUT,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "2 cpu device(s), data=2" in done.stderr
    assert tiny_job.steps_done(tmp_path / "run") == 16
