"""The real gcloud's own parser and ssh, in its own Python; no call is sent: it has no account."""

import functools
import json
import os
import shlex
import subprocess

_NO_ACCOUNT = "You do not currently have an active account selected"
_IMPORTS = """
import contextlib, io, json, subprocess, sys, types
sys.path[:0] = [sys.argv[1] + "/lib", sys.argv[1] + "/lib/third_party"]
"""
# Runs each command line of the input, all in one process, and prints its messages as JSON.
_PARSE = """
from googlecloudsdk import gcloud_main
from googlecloudsdk.core import log

cli = gcloud_main.CreateCLI([])
for words in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        log.Reset(sys.stdout, sys.stderr)
        with contextlib.suppress(SystemExit):
            cli.Execute(words)
    print(json.dumps(said.getvalue()))
"""
# Its ssh to two workers, with a local shell in place of the network.
_SSH = """
from googlecloudsdk.command_lib.compute.tpus.tpu_vm import ssh

class Command:
    def Run(self, env, explicit_output_file=None, explicit_error_file=None):
        how = {"stdout": explicit_output_file, "stderr": explicit_error_file}
        return subprocess.call(["bash", "-c", sys.argv[2]], **how)

ssh.SSHPrepCmd = lambda *_: Command()
helper = types.SimpleNamespace(env=None)
node = types.SimpleNamespace(worker_ips={0: "a", 1: "b"}, enable_batching=False, ssh_helper=helper)
arguments = types.SimpleNamespace(dry_run=False, output_directory=".", command="x")
ssh.SSHIntoPreppedNodes([node], arguments, 1)
"""


def refused(lines, folder):
    """The lines, each once, that the parser does not take, with what it says of them."""
    lines = sorted(set(lines))
    words = json.dumps([shlex.split(line)[1:] for line in lines])
    # An empty configuration has no account, wherever this runs.
    environment = os.environ | {
        "CLOUDSDK_CONFIG": str(folder / "no-account"),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }
    how = {"env": environment, "input": words, "capture_output": True, "text": True}
    done = _python(_PARSE, check=True, **how)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(lines)
    return [f"{line}: {said}" for line, said in zip(lines, told) if _NO_ACCOUNT not in said]


def ssh_to_two_workers(command, folder):
    """Runs a shell command twice, as gcloud's ssh with --output-directory=. runs it on workers."""
    _python(_SSH, command, cwd=folder)


def _python(code, *arguments, **how):
    root, python = _installation()
    line = [python, "-c", _IMPORTS + code, root, *arguments]
    return subprocess.run(line, timeout=120, **how)


@functools.cache
def _installation():
    line = ["gcloud", "info", "--format=value(installation.sdk_root,basic.python_location)"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip().split("\t")
