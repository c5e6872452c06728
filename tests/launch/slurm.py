"""A whole Slurm on this machine, in a folder: a controller, a node, a partition. Wants root, and slurmctld."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={port}
SlurmdPort={port_of_node}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Empty where a Slurm can be started."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "srun") if shutil.which(name) is None]
    if missing:
        return f"no {missing[0]} here (Debian: slurmctld slurmd slurm-client)"
    return "" if os.geteuid() == 0 else "slurmd wants root"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it; yields what the environment of its commands needs."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    port, port_of_node = free_port(), free_port()
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, port=port, port_of_node=port_of_node, cpus=os.cpu_count()))
    daemons = [
        subprocess.Popen([name, "-D", "-f", conf], stderr=subprocess.DEVNULL) for name in ("slurmctld", "slurmd")
    ]
    environment = {"SLURM_CONF": str(conf)}
    try:
        wait(lambda: "idle" in output(environment, "sinfo", "-h", "-o", "%T"), 30)
        yield environment
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)


def output(environment: dict[str, str], *command: str) -> str:
    """What a command of Slurm says."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    return done.stdout + done.stderr


def wait(for_what, seconds: float) -> None:
    """Until it is so."""
    until = time.monotonic() + seconds
    while not for_what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.5)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
