"""Forks Python programs from a process that has imported JAX, and has not initialized it.

`forked.py` starts it, with the end of a socket as its standard input, and asks over that socket:
each message carries the standard streams of a new process, and the end of a socket of its own. The
process reads there what it is to run, and the server writes its pid there and, later, its exit
code. What a program reads when it is imported is read again: JAX_* variables, NumPy's random state.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import types

NUMBER = struct.Struct("i")


def preload():
    """Imports what most programs import; nothing of palmscale, so that each tests its own imports.

    Every process forked from here also finds what another one compiled. By itself only process 0
    of a job would: the cache's key holds a fingerprint of the local CPU devices.
    """
    import flax.linen  # noqa: F401
    import gin  # noqa: F401
    import optax  # noqa: F401
    import rich.progress  # noqa: F401
    from jax._src import cache_key
    from jax.experimental import mesh_utils, multihost_utils  # noqa: F401
    from orbax.checkpoint import v1  # noqa: F401

    everywhere = b"the same in every process"
    cache_key._hash_accelerator_config = lambda digest, devices: digest.update(everywhere)


def serve(requests):
    """Forks a process a request; returns in each of them its socket and its standard streams.

    The server itself ends here, when nobody is left who could ask.
    """
    ended, wakeup = socket.socketpair()
    for end in (ended, wakeup):
        end.setblocking(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the tests
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    running = {}
    while True:
        ready, _, _ = select.select([requests, ended], [], [])
        if ended in ready:
            ended.recv(4096)
            tell_ends(running)
        if requests in ready:
            message, streams, _, _ = socket.recv_fds(requests, 1, 4)
            if not message:
                sys.exit()
            handle = socket.socket(fileno=streams.pop(0))
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                return handle, streams
            handle.sendall(NUMBER.pack(pid))
            running[pid] = handle
            for stream in streams:
                os.close(stream)


def tell_ends(running):
    """Tells of each process that has ended its exit code, as `subprocess` has it."""
    for pid in list(running):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with running.pop(pid) as handle:
                try:
                    handle.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
                except BrokenPipeError:
                    pass  # nobody asks any more


def become(handle, streams):
    """Makes this process the one that was asked for; returns `-c` or `-m`, and its program."""
    with handle, handle.makefile() as file:
        request = json.load(file)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    unbuffered, (kind, program, *sys.argv[1:]) = request["unbuffered"], request["arguments"]
    # Anew: whether a stream can seek is known once it is opened.
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", buffering=1 if unbuffered else -1, closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv[0], sys.path[0] = kind, "" if kind == "-c" else request["cwd"]
    read_environment_again()
    return kind, program


def read_environment_again():
    """Gives JAX what the JAX_* variables say, and NumPy a random state of its own."""
    import jax
    import numpy as np

    for variable, text in os.environ.items():
        name = variable.lower()
        if name.startswith("jax_") and hasattr(jax.config, name):
            default = getattr(jax.config, name)
            if isinstance(default, bool):
                value = text.lower() in ("1", "true", "yes", "y", "on", "t")
            else:
                value = text if default is None else type(default)(text)
            jax.config.update(name, value)
    np.random.seed()


def run(kind, program):
    """Runs the program as Python's command line would."""
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    preload()
    gc.freeze()
    run(*become(*serve(socket.socket(fileno=os.dup(0)))))
