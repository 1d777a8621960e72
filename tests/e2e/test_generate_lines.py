"""JSON lines through the commands: killed at any time, each id has one answer, and the same one."""

import json
import random
import signal
import sys
import time

import forked
import pytest
import tiny_job
import tiny_run

WORDS = ("def ", "import ", "class ", "for x in ", "if ", "return ", "naïve ")


def prompts(count):
    """Lines of different prompts, lengths and settings."""
    chance = random.Random(0)
    for number in range(count):
        line = {"id": f"line {number}", "prompt": "".join(chance.choices(WORDS, k=number % 5))}
        if number % 3 == 0:
            line |= {"max_tokens": chance.randint(1, 30), "temperature": 0}
        if number % 4 == 1:
            line |= {"stop": ["e", "in"], "top_logprobs": 1, "repetition_penalty": 1.2}
        yield line


# Runs before the command's own work: it is killed while it writes one of its answers.
KILLED = """
import os, signal
from palmscale.run import json_lines
write, left = json_lines.Answers.write, {left}
def killed(self, answer):
    global left
    left -= 1
    if left == 0:
        line = json_lines.as_line(answer).encode()
        self._file.write(line[: int({share} * len(line))])
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, answer)
json_lines.Answers.write = killed
"""


@pytest.fixture
def command(finished, tmp_path):
    """Returns the command that continues so many lines."""

    def of(count):
        lines = tmp_path / "in.jsonl"
        lines.write_text("".join(json.dumps(line) + "\n" for line in prompts(count)))
        return ["generate", f"--workdir={finished}", f"--jsonl={lines}", "--max_tokens=20"]

    return of


def assert_same_answers(whole, out, count):
    """Each id once, with the same answer in both files."""
    answers = [list(map(json.loads, path.read_text().splitlines())) for path in (whole, out)]
    by_id = [sorted(each, key=lambda answer: answer["id"]) for each in answers]
    assert by_id[0] == by_id[1] and len({answer["id"] for answer in by_id[0]}) == count
    assert len({answer["text"] for answer in by_id[0]}) > count // 2


def test_killed_and_resumed_each_id_has_the_text_of_an_unkilled_run(command, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    tiny_run.run(*command(40), f"--out={whole}")
    for left, share in ((13, 0.5), (9, 0.0)):
        driver = tiny_job.DRIVER.format(code=KILLED.format(left=left, share=share))
        killed = forked.run(
            [sys.executable, "-c", driver, *command(40), f"--out={out}"],
            cwd=tiny_run.CHECKOUT,
            capture_output=True,
            timeout=600,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    tiny_run.run(*command(40), f"--out={out}")
    assert_same_answers(whole, out, 40)


@pytest.mark.long
def test_a_thousand_lines_killed_five_times_at_any_moment(command, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    tiny_run.run(*command(1000), f"--out={whole}")
    out.touch()
    for kill in range(5):
        until = out.read_bytes().count(b"\n") + random.Random(kill).randint(100, 150)
        with tiny_run.start(*command(1000), f"--out={out}") as process:
            while process.poll() is None and out.read_bytes().count(b"\n") < until:
                time.sleep(0.001)
            process.kill()
            assert process.wait() == -signal.SIGKILL
    tiny_run.run(*command(1000), f"--out={out}")
    assert_same_answers(whole, out, 1000)
