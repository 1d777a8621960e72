"""launch/tpu_pod/install.sh, among Pythons that only say which they are."""

import shutil
import subprocess

import pytest
import source_tree

SCRIPT = source_tree.CHECKOUT / "launch/tpu_pod/install.sh"
# Makes environments if its name says 3.11 or later; as the stock image's python3, it can only
# install uv, which makes an environment with a Python of its own.
PYTHON = """#!/bin/bash
case "$*" in
  *version_info*) [[ $0 == *3.1[1-9] || $0 == *.venv* ]] ;;
  *" venv "*) [[ -z ${NO_VENV-} ]] && "$MAKE" "$(basename "$0")" ;;
  *"--target=.uv uv") [[ -z ${NO_UV-} ]] && mkdir -p .uv/bin && cp "$UV" .uv/bin/uv ;;
esac
"""
MAKE = """#!/bin/bash
rm -rf .venv && mkdir -p .venv/bin && cp "$PYTHON" .venv/bin/python && cp "$PIP" .venv/bin/pip
echo "made with $1"
"""
PIP = """#!/bin/bash
echo "pip $*" >>log
[[ -z ${FULL-} ]] || { echo "ERROR: No space left on device" >&2; exit 1; }
"""
UV = """#!/bin/bash
echo "uv $*" >>log
"$MAKE" uv
"""


@pytest.fixture
def install(tmp_path):
    """Returns a function that installs with the named Pythons on PATH: (process, log)."""
    code, tools = tmp_path / "code", tmp_path / "tools"
    (code / "launch/tpu_pod").mkdir(parents=True)
    shutil.copy(SCRIPT, code / "launch/tpu_pod")
    (code / "constraints.txt").write_text("jax==0\n")
    (code / "pyproject.toml").write_text("")
    tools.mkdir()
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    texts = {"PYTHON": PYTHON, "MAKE": MAKE, "PIP": PIP, "UV": UV}
    for name, text in texts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
        environment[name] = str(tools / name)

    def run(*pythons, **more):
        shutil.rmtree(tmp_path / "bin", ignore_errors=True)
        (tmp_path / "bin").mkdir()
        (code / "log").unlink(missing_ok=True)
        hidden = {"python3.11", "python3.12", "python3.13", "python3"} - set(pythons)
        for name in {*pythons, *hidden}:
            text = PYTHON if name in pythons else "#!/bin/sh\nexit 127\n"
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        line = ["bash", code / "launch/tpu_pod/install.sh"]
        how = {"capture_output": True, "text": True, "timeout": 60}
        done = subprocess.run(line, env=environment | more, **how)
        log = code / "log"
        return done, log.read_text() if log.exists() else ""

    return run


def test_a_recent_python_is_used_and_the_second_install_does_nothing(install):
    done, log = install("python3", "python3.11")
    assert done.returncode == 0 and log == "pip install -q -c constraints.txt -e .[tpu,gcs]\n"
    done, log = install("python3", "python3.11")
    assert done.returncode == 0 and log == ""


@pytest.mark.parametrize("lacks", [{}, {"NO_VENV": "1"}], ids=["old", "without venv"])
def test_without_a_usable_recent_python_uv_brings_one(install, lacks):
    pythons = ("python3", "python3.11") if lacks else ("python3",)
    done, log = install(*pythons, **lacks)
    assert done.returncode == 0, done.stderr
    assert log.splitlines()[0] == "uv venv -q --seed --clear --python 3.12 .venv"
    assert log.splitlines()[1].startswith("pip install")


def test_a_worker_on_which_nothing_helps_says_so_in_its_last_line(install):
    done, _ = install("python3", NO_UV="1")
    assert done.returncode == 1
    assert "has no Python 3.11 or later" in done.stdout.splitlines()[-1]


def test_a_failed_install_is_repeated_the_next_time(install):
    assert install("python3.12", FULL="1")[0].returncode == 1
    done, log = install("python3.12")
    assert done.returncode == 0 and log.startswith("pip install")
