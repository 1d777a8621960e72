"""A gcloud in place of the real one, which answers by a function of the command line."""

import pathlib

import pytest
from tpu_pod import cloud as clouds
from tpu_pod.cloud import Answer, Cloud
from tpu_pod.options import Options


@pytest.fixture
def options():
    return Options(name="palm", zone="z", poll=0)


@pytest.fixture
def gcloud(monkeypatch):
    """Takes a function of (words after `compute tpus`, working folder) that returns an Answer.

    A function may return None for "nothing to say". Returns the list of lines that were run.
    """

    def use(answer):
        lines = []

        def run(line, cwd=None, **_):
            lines.append(line)
            at = line.index("tpus") + 1
            said = answer(line[at:], pathlib.Path(cwd or ".")) or Answer(0)
            return type(
                "Done", (), {"returncode": said.code, "stdout": said.out, "stderr": said.err}
            )

        monkeypatch.setattr(clouds, "_run", run)
        return lines

    return use


@pytest.fixture
def cloud():
    return Cloud(zone="z")
