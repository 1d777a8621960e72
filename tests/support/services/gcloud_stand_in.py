#!/usr/bin/env python3
"""A stand-in for `gcloud`: TPU workers are folders, and their commands processes of this machine.

STAND_IN_STATE is its folder; each queued resource has STAND_IN_WORKERS workers a slice. Every
command line is added to <state>/commands, one JSON list a line.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

STATE = pathlib.Path(os.environ["STAND_IN_STATE"])
WORKERS = int(os.environ["STAND_IN_WORKERS"])


def main(arguments):
    with open(STATE / "commands", "a") as file:
        file.write(json.dumps(arguments) + "\n")
    flags = dict(
        a.removeprefix("--").split("=", 1) for a in arguments if a[:2] == "--" and "=" in a
    )
    words = [argument for argument in arguments if not argument.startswith("--")]
    words = words[words[0] == "alpha" :]
    action = words[2:4]
    assert words[:2] == ["compute", "tpus"], arguments
    if action[0] == "queued-resources":
        return globals()[f"resource_{action[1]}"](words[4], flags)
    return globals()[f"vm_{action[1]}"](words[4:], flags)


def resource_create(name, flags):
    count = int(flags.get("node-count", 1))
    names = [flags["node-id"]] if "node-id" in flags else []
    names = names or [f"{flags['node-prefix']}-{index}" for index in range(count)]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for slice_index, node in enumerate(names):
        for worker in range(WORKERS):
            (STATE / "nodes" / node / str(worker)).mkdir(parents=True)
        place = {"port": port, "first": slice_index * WORKERS, "count": count * WORKERS}
        (STATE / "nodes" / node / "place").write_text(json.dumps(place))
    (STATE / name).write_text(json.dumps({"state": "ACTIVE", "nodes": names}))


def resource_describe(name, flags):
    if not (STATE / name).exists():
        sys.exit("ERROR: NOT_FOUND")
    print(json.loads((STATE / name).read_text())["state"])


def resource_delete(name, flags):
    for node in json.loads((STATE / name).read_text())["nodes"]:
        end_processes(STATE / "nodes" / node)
        shutil.rmtree(STATE / "nodes" / node)
    (STATE / name).unlink()


def end_processes(folder):
    """Kills every process whose home is in the folder."""
    mark = f"HOME={folder}".encode()
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes() and int(path.name) != os.getpid():
                os.kill(int(path.name), signal.SIGKILL)


def chosen(node, flags):
    workers = range(WORKERS) if flags["worker"] == "all" else [int(flags["worker"])]
    return [(worker, STATE / "nodes" / node / str(worker)) for worker in workers]


def vm_describe(words, flags):
    print("READY" if (STATE / "nodes" / words[0]).exists() else "TERMINATED")


def vm_scp(words, flags):
    *sources, target = words
    node, _, path = target.partition(":")
    for source in sources:
        for _, home in chosen(node, flags):
            shutil.copy(source, home / path)


def vm_ssh(words, flags):
    node = words[0]
    place = json.loads((STATE / "nodes" / node / "place").read_text())
    running = []
    for worker, home in chosen(node, flags):
        environment = os.environ | {
            "HOME": str(home),
            "JAX_COORDINATOR_ADDRESS": f"localhost:{place['port']}",
            "JAX_NUM_PROCESSES": str(place["count"]),
            "JAX_PROCESS_ID": str(place["first"] + worker),
        }
        out = contextlib.nullcontext()
        if "output-directory" in flags:
            out = open(pathlib.Path(flags["output-directory"]) / f"{worker}.log", "wb")
        with out as file:
            command = ["bash", "-c", flags["command"]]
            running.append(
                subprocess.Popen(command, cwd=home, env=environment, stdout=file, stderr=file)
            )
    if any([process.wait() for process in running]):
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
