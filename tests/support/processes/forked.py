"""Python processes that are forked where others are started: JAX is imported already."""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import threading
import time

from fork_server import NUMBER

_SERVER = pathlib.Path(__file__).with_name("fork_server.py")


class Popen:
    """A `subprocess.Popen` of `python [-u] -c CODE ...` or `python [-u] -m MODULE ...`.

    As there: environment, folder, standard streams (PIPE, DEVNULL, STDOUT, or a file), signals and
    exit codes; and `pid` is the process's own. Its hash seed alone is that of the server. One that
    changes PYTHON* variables cannot be forked: ValueError.
    """

    def __init__(
        self, args, *, stdin=None, stdout=None, stderr=None, text=False, cwd=None, env=None
    ):
        self.args, self.returncode = args, None
        environment = dict(os.environ if env is None else env)
        _check(args, environment)
        unbuffered = args[1] == "-u"
        request = {
            "arguments": list(map(str, args[1 + unbuffered :])),
            "unbuffered": unbuffered,
            "cwd": str(cwd or os.getcwd()),
            "environment": environment,
        }
        with contextlib.ExitStack() as theirs:
            self.stdin, into = _stream(stdin, 0, text, theirs)
            self.stdout, out = _stream(stdout, 1, text, theirs)
            self.stderr, err = (
                (None, out) if stderr == subprocess.STDOUT else _stream(stderr, 2, text, theirs)
            )
            self._handle, end = socket.socketpair()
            theirs.enter_context(end)
            socket.send_fds(_server(), [b"+"], [end.fileno(), into, out, err])
        self._handle.sendall(json.dumps(request).encode())
        self._handle.shutdown(socket.SHUT_WR)
        self.pid = self._number()

    def _number(self):
        told = b""
        with contextlib.suppress(ConnectionResetError):
            told = self._handle.recv(NUMBER.size, socket.MSG_WAITALL)
        if not told:
            raise RuntimeError("the fork server has ended")
        return NUMBER.unpack(told)[0]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()

    def poll(self):
        """The exit code; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        """The exit code, once there is one."""
        if self.returncode is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = self._number()
            self._handle.close()
        return self.returncode

    def communicate(self, input=None, timeout=None):
        """What it writes to the pipes, until it ends; `input` is what it reads."""
        end = None if timeout is None else time.monotonic() + timeout
        told = {}

        def read(name, stream):
            told[name] = stream.read()

        readers = [
            threading.Thread(target=read, args=(name, stream), daemon=True)
            for name in ("stdout", "stderr")
            if (stream := getattr(self, name)) is not None
        ]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(input or "")
        for reader in readers:
            reader.join(None if end is None else max(0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(None if end is None else max(0, end - time.monotonic()))
        return told.get("stdout"), told.get("stderr")

    def send_signal(self, number):
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        """Ends it with SIGKILL."""
        self.send_signal(9)

    def terminate(self):
        """Asks it to end, with SIGTERM."""
        self.send_signal(15)


def run(args, *, input=None, timeout=None, check=False, capture_output=False, **options):
    """As `subprocess.run`, of a forked process."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(args, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        finally:
            process.kill()
    done = subprocess.CompletedProcess(args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _check(args, environment):
    """Refuses what a fork cannot give."""
    interpreter, *rest = args
    if interpreter != sys.executable or rest[rest[0] == "-u"] not in ("-c", "-m"):
        raise ValueError(f"{args[:3]} - only `sys.executable [-u] -c|-m` is forked")
    theirs, ours = map(_python_variables, (environment, os.environ))
    if theirs != ours:
        raise ValueError(f"{theirs} - a fork has {ours} - start such a process by itself")


def _python_variables(environment):
    return {k: v for k, v in environment.items() if k.startswith("PYTHON")}


def _stream(given, number, text, theirs):
    """Our end of a stream, or None, and the descriptor of theirs, which `theirs` closes."""
    if given is None:
        return None, number
    if given == subprocess.DEVNULL:
        null = os.open(os.devnull, os.O_RDWR)
        theirs.callback(os.close, null)
        return None, null
    if given != subprocess.PIPE:
        return None, given if isinstance(given, int) else given.fileno()
    reading, writing = os.pipe()
    ours, their = (writing, reading) if number == 0 else (reading, writing)
    theirs.callback(os.close, their)
    mode = ("w" if number == 0 else "r") + ("" if text else "b")
    return open(ours, mode), their


@functools.cache
def _server():
    """The socket of this process's fork server. It ends with us."""
    requests, end = socket.socketpair()
    # JAX reads these when it is imported; each process is given its own, later.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    with end:
        server = subprocess.Popen([sys.executable, _SERVER], stdin=end, env=environment)

    def finish():
        requests.close()
        server.wait()

    atexit.register(finish)
    return requests
