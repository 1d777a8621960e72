"""A real Slurm on this machine: one controller and one node, in a folder of their own."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
_PATH = os.environ["PATH"] + ":/usr/sbin"

_CONFIG = """
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Slurm lets a requeued job wait until its credential has expired: 120 s by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=1
ReturnToService=2
# Four tasks at a time, however few cores this machine has.
SlurmdParameters=config_overrides
KillWait=10
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def absent():
    """The programs that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


class Slurm:
    """The commands of a running Slurm."""

    def __init__(self, folder):
        self.folder = folder
        self.env = os.environ | {"PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}

    def command(self, *arguments, **options):
        """What the command prints."""
        done = subprocess.run(
            list(map(str, arguments)),
            env=self.env | options.pop("env", {}),
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def job(self, number):
        """The fields of a job."""
        told = self.command("scontrol", "show", "job", number)
        return dict(re.findall(r"(\w+)=(\S*)", told))

    def wait(self, number, *, seconds=180):
        """The fields of a job that has ended."""
        end = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] in ("PENDING", "RUNNING", "COMPLETING"):
            assert time.monotonic() < end, f"{job} {self.logs()}"
            time.sleep(0.3)
        return job

    def logs(self):
        return "".join(
            f"\n{path.name}:\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log")
        )


@contextlib.contextmanager
def running(folder):
    """Starts Slurm and yields it; whatever happens, it and its jobs are gone afterwards."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    with socket.socket() as one, socket.socket() as other:
        one.bind(("", 0))
        other.bind(("", 0))
        ports = {"controller": one.getsockname()[1], "node": other.getsockname()[1]}
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(_CONFIG.format(folder=folder, host=host, **ports))
    slurm = Slurm(folder)
    munge = [f"--{n}={folder}/munge.{e}" for n, e in (("key-file", "key"), ("socket", "socket"))]
    munge += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munged.log"]
    munge += [f"--seed-file={folder}/munge.seed"]
    services = []
    try:
        for service in (
            ["munged", "--foreground", "--force", *munge],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-N", "localhost"],
        ):
            service[0] = shutil.which(service[0], path=_PATH)
            out = open(folder / f"{os.path.basename(service[0])}.out.log", "wb")
            with out:
                services.append(subprocess.Popen(service, env=slurm.env, stdout=out, stderr=out))
            end = time.monotonic() + 20
            while service[1] == "--foreground" and not (folder / "munge.socket").exists():
                assert time.monotonic() < end, slurm.logs()
                time.sleep(0.1)
        end = time.monotonic() + 60
        while "idle" not in _node_state(slurm):
            assert time.monotonic() < end, slurm.logs()
            time.sleep(0.3)
        yield slurm
    finally:
        if (folder / "slurm.conf").exists():
            subprocess.run(
                ["scancel", "--user=root", "--signal=KILL", "--full"],
                env=slurm.env,
                capture_output=True,
                timeout=30,
            )
            time.sleep(1)
        for service in reversed(services):
            service.terminate()
            try:
                service.wait(10)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()
        _end_strays(folder)


def _node_state(slurm):
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%t"], env=slurm.env, capture_output=True, text=True
    )
    return done.stdout


def _end_strays(folder):
    """Kills what a job has left: its step managers and tasks know the folder by SLURM_CONF."""
    mark = f"SLURM_CONF={folder}/".encode()
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes() and int(path.name) != os.getpid():
                os.kill(int(path.name), 9)
