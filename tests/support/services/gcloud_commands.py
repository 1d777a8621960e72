"""The real gcloud's own parser and ssh; no call is sent: it has no account."""

import os
import pathlib
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor

_NO_ACCOUNT = "You do not currently have an active account selected"
# Runs in gcloud's own Python: its ssh to two workers, with a local shell in place of the network.
_SSH = """
import subprocess, sys, types
sys.path[:0] = [sys.argv[1] + "/lib", sys.argv[1] + "/lib/third_party"]
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
    # An empty configuration has no account, wherever this runs.
    environment = os.environ | {
        "CLOUDSDK_CONFIG": str(folder / "no-account"),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }

    def parse(line):
        done = subprocess.run(
            shlex.split(line), env=environment, capture_output=True, text=True, timeout=120
        )
        return None if _NO_ACCOUNT in done.stderr else f"{line}: {done.stderr}"

    with ThreadPoolExecutor(2) as pool:
        return [said for said in pool.map(parse, sorted(set(lines))) if said]


def ssh_to_two_workers(command, folder):
    """Runs a shell command twice, as gcloud's ssh with --output-directory=. runs it on workers."""
    line = ["gcloud", "info", "--format=value(installation.sdk_root,basic.python_location)"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    root, python = done.stdout.strip().split("\t")
    assert pathlib.Path(root).is_dir()
    subprocess.run([python, "-c", _SSH, root, command], cwd=folder, timeout=120)
