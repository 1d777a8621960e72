"""`palmscale verify-resume` starts runs that differ in nothing but what they must."""

import json

import pytest

from palmscale.cli import main
from palmscale.run import verify_resume as library
from palmscale.run.verify_resume import Certificate, Check

LINE = ["verify-resume", "--gin_file=a.gin", "--gin.SEED=3", "--gin.TRAIN_STEPS=9", "--steps=8"]


@pytest.fixture
def answer(monkeypatch):
    """Answers with a certificate of `answer.verdict`, and keeps what was asked."""

    def verify_resume(command, **keywords):
        answer.command, answer.keywords = command, keywords
        return Certificate(
            good=answer.verdict != "different",
            steps=28,
            killed_at=8,
            processes=(1, 1),
            resumed_with=(),
            tolerance=None,
            checks=(Check("losses", answer.verdict, "bit for bit"),),
            versions={},
            time="now",
        )

    answer = verify_resume
    monkeypatch.setattr(library, "verify_resume", answer)
    return answer


@pytest.mark.parametrize(("verdict", "code"), [("equal", 0), ("close", 0), ("different", 1)])
def test_the_verdicts_are_printed_and_a_difference_is_exit_code_1(
    verdict, code, answer, tmp_path, capsys
):
    answer.verdict = verdict
    assert main.run([*LINE, f"--workdir={tmp_path}/w"]) == code
    assert ["losses", verdict] == capsys.readouterr().out.split()[-5:-3]


def test_both_runs_are_the_same_command_but_for_what_is_resumed_with(answer, tmp_path):
    answer.verdict = "equal"
    main.run([*LINE, f"--workdir={tmp_path}/w", "--resume_with=DATA=1", "--resume_processes=2"])
    first = answer.command(tmp_path / "a", tmp_path / "a.jsonl", False)
    resumed = answer.command(tmp_path / "a", tmp_path / "a.jsonl", True)
    assert [flag for flag in resumed if flag not in first] == ["--gin.DATA=1"]
    assert first[3:6] == ["train", "--gin_file=a.gin", f"--workdir={tmp_path}/a"]
    assert f"--step_log={tmp_path}/a.jsonl" in first and "--gin.SEED=3" in first
    # 8 steps before the kill and 20 after it, whatever the run itself is told.
    assert [flag for flag in first if "TRAIN_STEPS" in flag] == ["--gin.TRAIN_STEPS=28"]
    assert answer.keywords["resumed_with"] == ["DATA=1"]
    assert json.dumps(answer.keywords["resume_processes"]) == "2"
