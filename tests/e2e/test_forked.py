"""A forked process is to its parent, and to itself, what a started one is."""

import os
import signal
import subprocess
import sys
import time

import forked
import pytest

TELL = """
import json, os, sys
import jax
told = {
    "arguments": sys.argv,
    "folder": os.getcwd(),
    "path": sys.path[0],
    "name": __name__,
    "variable": os.environ.get("TOLD"),
    "home": "HOME" in os.environ,
    "flags": [jax.config.jax_enable_x64, jax.config.jax_compilation_cache_dir],
    "devices": str(jax.devices()),
    "read": sys.stdin.read(),
    "streams": [stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "handlers": [str(signal) for signal in map(__import__("signal").getsignal, (2, 15, 17))],
}
print(json.dumps(told))
print("on standard error", file=sys.stderr)
"""
ENVIRONMENT = {
    "TOLD": "a b",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "JAX_COMPILATION_CACHE_DIR": "/no/where",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
    "PATH": os.environ["PATH"],
}


def both(code, *arguments, **options):
    """The outcomes of the same program, started and forked."""
    command = [sys.executable, "-c", code, *arguments]
    variables = {k: v for k, v in os.environ.items() if k.startswith("PYTHON")}
    pipes = {"capture_output": True, "text": True, "env": ENVIRONMENT | variables}
    return [run(command, **(pipes | options)) for run in (subprocess.run, forked.run)]


def test_it_has_the_same_environment_folder_arguments_and_streams(tmp_path):
    started, ours = both(TELL, "a", "--b=c d", cwd=tmp_path, input="told")
    assert ours.stdout == started.stdout and '"told"' in ours.stdout
    assert ours.stderr == started.stderr == "on standard error\n"
    assert "CpuDevice(id=2)" in ours.stdout


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit",
        "raise SystemExit(3)",
        "raise SystemExit('a reason')",
        "raise KeyboardInterrupt",
        "import os; os._exit(75)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.abort()",
        "import atexit; atexit.register(print, 'at exit')",
        "import threading; threading.Timer(0.1, print, ['of a thread']).start()",
    ],
)
def test_it_ends_alike(code):
    started, ours = both(code)
    assert (ours.returncode, ours.stdout) == (started.returncode, started.stdout)
    assert ours.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


def test_an_exception_is_told_with_exit_code_1():
    started, ours = both("raise ValueError(3)")
    assert ours.returncode == started.returncode == 1
    assert ours.stderr.splitlines()[-1] == started.stderr.splitlines()[-1] == "ValueError: 3"


@pytest.mark.parametrize("popen", [subprocess.Popen, forked.Popen])
def test_it_is_stopped_continued_and_killed_and_a_file_has_what_it_said(popen, tmp_path):
    code = "import os, time; print(os.getpid())\nwhile True: print('on'); time.sleep(0.01)"
    with open(tmp_path / "said", "wb") as file:
        process = popen([sys.executable, "-u", "-c", code], stdout=file, stderr=subprocess.STDOUT)

    def said():
        return (tmp_path / "said").read_text()

    def grows(seconds):
        end, before = time.monotonic() + seconds, len(said())
        while time.monotonic() < end and len(said()) <= before:
            time.sleep(0.01)
        return len(said()) > before

    with process:
        try:
            assert grows(10) and said().startswith(f"{process.pid}\n")
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            assert process.poll() is None and not grows(0.2)
            process.send_signal(signal.SIGCONT)
            assert grows(10)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
        finally:
            process.kill()
        assert process.wait(10) == -signal.SIGKILL


def test_a_module_is_run_as_the_main_one():
    done = forked.run([sys.executable, "-m", "palmscale", "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean train?" in done.stderr


def test_what_cannot_be_forked_is_refused():
    with pytest.raises(ValueError, match="PYTHONWARNINGS"):
        forked.run([sys.executable, "-c", ""], env=os.environ | {"PYTHONWARNINGS": "error"})
    with pytest.raises(ValueError, match="is forked"):
        forked.run([sys.executable, "script.py"])
