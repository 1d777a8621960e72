import json

import pytest

from palmscale.errors import CorruptionError
from palmscale.run.plan_check import compare_with_plan
from palmscale.storage.place import place


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr("palmscale.observe.log.say", lines.append)
    monkeypatch.setattr("palmscale.observe.log.warn", lambda text: lines.append(f"warn: {text}"))
    return lines


def compare(workdir, **changes):
    fields = dict(
        step_digest="abc",
        batch_sequences=8,
        run={"model": {"remat": "full"}, "skip_rows": ()},
        versions={"jax": "1"},
    )
    compare_with_plan(workdir, **fields | changes)


@pytest.fixture
def workdir(tmp_path):
    stage = {"batch_sequences": 8, "step_digest": "abc", "topology": "v5e:16x16"}
    whole = {
        "plans": [stage],
        "run": {"model": {"remat": "full"}, "skip_rows": []},
        "versions": {"jax": "1"},
    }
    (tmp_path / "plan.json").write_text(json.dumps(whole))
    return tmp_path


def test_the_planned_step_is_recognized(workdir, said):
    compare(workdir)
    assert said == [f"The compiled step is the one planned in {workdir / 'plan.json'}."]


def test_another_step_is_reported_with_what_changed(workdir, said):
    compare(workdir, step_digest="xyz", run={"model": {"remat": "none"}, "skip_rows": ()},
            versions={"jax": "2"})  # fmt: skip
    assert len(said) == 1 and said[0].startswith("warn: the compiled step is not the one planned")
    assert "model.remat: 'full' -> 'none', jax: '1' -> '2'" in said[0]
    assert "v5e:16x16" in said[0]


def test_with_equal_settings_the_devices_differ(workdir, said):
    compare(workdir, step_digest="xyz")
    assert "so the devices or their order differ" in said[0]


def test_nothing_planned_nothing_said(tmp_path, workdir, said):
    compare(tmp_path / "elsewhere")
    compare(workdir, batch_sequences=16)
    assert said == []


def test_a_plan_in_a_bucket_is_found_as_well(workdir, said, bucket):
    there = place(f"{bucket.url}/run")
    (there / "plan.json").write_text((workdir / "plan.json").read_text())
    compare(there)
    assert said == [f"The compiled step is the one planned in {bucket.url}/run/plan.json."]


@pytest.mark.parametrize("content", ["", "[]", '{"plans": [{"batch_sequences": 8}]}'])
def test_a_plan_of_another_form_is_named(content, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(CorruptionError, match="plan.json is not what palmscale writes"):
        compare(tmp_path)
