"""Copying the code to every worker: which files, and how they get there."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor

from tpu_pod import workers
from tpu_pod.cloud import Cloud
from tpu_pod.errors import Fault, Mistake, say
from tpu_pod.options import Options

ARCHIVE, ENVIRONMENT = "palmscale.tgz", "palmscale.env"
_NEEDED = ("pyproject.toml", "constraints.txt", "launch/worker.sh", "palmscale/__init__.py")
_SECRET = re.compile(
    r"\.env(\..*)?|\.netrc|\.pgpass|\.pypirc|\.npmrc|\.git-credentials|id_(rsa|dsa|ecdsa|ed25519)"
    r"|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|tfvars|tfstate)"
    r"|.*(secret|credential|passw|api[-_]?key|service[-_]?account).*"
    r"|(.*[-_.])?tokens?(\.txt|\.json|\.ya?ml)?",
    re.IGNORECASE,
)


def code_files(root: pathlib.Path, include: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """Returns the files to ship, relative to `root`, and those left out as likely secrets.

    In a git checkout, these are the tracked files, and the untracked ones that .gitignore does not
    exclude. Elsewhere, all files that .gitignore does not exclude. Untracked files that look like
    secrets are left out, except those in `include`.

    Raises:
        Mistake: `root` is not palmscale's code, or git is absent.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    with tempfile.TemporaryDirectory(prefix="tpu_pod-") as empty:
        repository = []
        if top.returncode or pathlib.Path(top.stdout.strip()).resolve() != root.resolve():
            # An empty repository beside it, so that the same rules apply.
            _git(pathlib.Path(empty), "init", "-q")
            repository = [f"--git-dir={empty}/.git", f"--work-tree={root}"]
        tracked = _listed(root, *repository, "ls-files", "-z")
        untracked = _listed(root, *repository, "ls-files", "-zo", "--exclude-standard")
    asked = {os.path.normpath(path) for path in include}
    secret = [p for p in untracked if p not in asked and _SECRET.fullmatch(pathlib.Path(p).name)]
    files = sorted({*tracked, *untracked}.difference(secret))
    files = [path for path in files if os.path.lexists(root / path)]
    if absent := [path for path in _NEEDED if path not in files]:
        raise Mistake(
            f"{root} is not a checkout of palmscale: {absent[0]} is missing; start tpu_pod.sh from"
            " the launch folder of a checkout"
        )
    if strange := sorted(asked.difference(files)):
        raise Mistake(f"--include={strange[0]} is not a file of {root} that git would list")
    return files, secret


def ship(cloud: Cloud, options: Options, root: pathlib.Path) -> None:
    """Copies the code to every worker and installs it where no job is running.

    Raises:
        Mistake: there is no code to ship.
        Fault: a worker cannot be reached, or its installation failed; names it.
    """
    files, secret = code_files(root, options.include)
    if secret:
        say(
            f"not copied, as they look like secrets: {', '.join(secret)}; to ship one, add for"
            f" example --include={secret[0]}"
        )
    with tempfile.TemporaryDirectory(prefix="tpu_pod-") as name:
        folder = pathlib.Path(name)
        sent = [ARCHIVE]
        if not cloud.dry_run:
            with tarfile.open(folder / ARCHIVE, "w:gz") as archive:
                for path in files:
                    archive.add(root / path, path)
        if options.env:
            sent.append(ENVIRONMENT)
            with open(folder / ENVIRONMENT, "w", opener=_private) as file:
                file.writelines(f"{n}={shlex.quote(os.environ[n])}\n" for n in options.env)
        _copy(cloud, options, folder, sent)
    say("installing on every worker" if not cloud.dry_run else "dry run: nothing is copied")
    replies = workers.everywhere(cloud, options, _install_text(options))
    if faults := workers.failed(replies):
        raise Fault(f"the installation failed: {'; '.join(faults)}")


def start_text(options: Options) -> str:
    """Returns the shell command that starts the job on a worker, unless it is running."""
    variables = ""
    if options.env:
        variables = f"set -a; [ ! -f ~/{ENVIRONMENT} ] || . ~/{ENVIRONMENT}; set +a; "
        variables += f"rm -f ~/{ENVIRONMENT}; "
    job = shlex.join(("launch/worker.sh", "start", "--", "palmscale", *options.command))
    return f'cd palmscale && {{ {variables}PATH="$PWD/.venv/bin:$PATH" {job}; }}'


def _install_text(options: Options) -> str:
    # Files are never removed under a live job.
    return (
        "if [ -x palmscale/launch/worker.sh ] && palmscale/launch/worker.sh status |"
        " grep -q ^running; then exit 0; fi;"
        " mkdir -p palmscale && rm -rf palmscale/palmscale palmscale/configs &&"
        f" tar -xzf {ARCHIVE} -C palmscale && cd palmscale && {{ {options.install}; }}"
    )


def _copy(cloud: Cloud, options: Options, folder: pathlib.Path, sent: list[str]) -> None:
    def copy(node: str) -> str:
        flags = ["--worker=all"]
        answer = cloud.ask("tpu-vm", "scp", *sent, f"{node}:", flags=flags, folder=folder)
        return f"slice {node}: {answer.error}" if answer.code else ""

    with ThreadPoolExecutor(1 if cloud.dry_run else len(options.nodes)) as pool:
        if faults := list(filter(None, pool.map(copy, options.nodes))):
            raise Fault(f"the code could not be copied: {'; '.join(faults)}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _listed(root: pathlib.Path, *arguments: str) -> list[str]:
    done = _git(root, *arguments)
    if done.returncode:
        raise Mistake(f"git cannot list the files of {root}: {done.stderr.strip()}")
    return [path for path in done.stdout.split("\0") if path]


def _git(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    line = ["git", *arguments]
    how = {"capture_output": True, "text": True, "errors": "surrogateescape"}
    try:
        return subprocess.run(line, cwd=folder, **how)
    except FileNotFoundError:
        raise Mistake("git is not on PATH; it lists the files to copy: install it") from None
