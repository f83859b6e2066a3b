"""A real SLURM of one node on loopback, for as long as a test runs."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "scontrol")
_START_SECONDS = 30

_CONF = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5,sched_min_interval=0
ReturnToService=2
JobRequeue=1
MinJobAge=300
KillWait=5
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=NO
"""

# submitit asks sacct, which needs a database daemon; clusters have one, this has not.
_SACCT = """\
#!/bin/sh
echo 'JobID|State|NodeList'
squeue -h -a -r -t all -o '%i|%T|%N'
"""


def missing() -> str:
    """Say why there can be no cluster here; nothing when there can."""
    absent = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)} not found)"
    if os.geteuid() != 0:
        return "SLURM's daemons need root here"
    try:
        if not socket.gethostbyname(_host()).startswith("127."):
            return f"{_host()} does not resolve to loopback"
    except OSError:
        return f"{_host()} does not resolve"
    return ""


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and slurmd; yields the environment to use."""
    with tempfile.TemporaryDirectory(prefix="srmri-slurm-") as name:
        # munge wants everybody to be able to reach its socket; pytest's folders are private.
        Path(name).chmod(0o755)
        with _daemons(Path(name)) as environment:
            yield environment


@contextmanager
def _daemons(folder: Path) -> Iterator[dict[str, str]]:
    for name in ("munge", "ctld", "slurmd", "log", "bin"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge" / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    sacct = folder / "bin" / "sacct"
    sacct.write_text(_SACCT, encoding="ascii")
    sacct.chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{_path()}"
    probe = subprocess.run(
        ["slurmd", "-C"], capture_output=True, text=True, check=True, env={"PATH": path}
    )
    seen = dict(re.findall(r"(\w+)=(\S+)", probe.stdout))
    ctld_port, slurmd_port = _free_ports(2)
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(
            host=_host(), user="root", folder=folder, ctld_port=ctld_port, slurmd_port=slurmd_port,
            cpus=seen["CPUs"], memory=int(int(seen["RealMemory"]) * 0.9),
        ),
        encoding="ascii",
    )  # fmt: skip
    environment = {"PATH": path, "SLURM_CONF": str(conf)}
    munge = folder / "munge" / "munge.sock"
    commands = [
        ["munged", "-F", f"--key-file={key}", f"--socket={munge}",
         f"--pid-file={folder}/munge/munged.pid", f"--log-file={folder}/log/munged.log",
         f"--seed-file={folder}/munge/seed"],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]  # fmt: skip
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with open(folder / "log" / f"{command[0]}.out", "wb") as log:
                daemons.append(
                    subprocess.Popen(
                        command, stdout=log, stderr=log, env={**os.environ, **environment}
                    )
                )
            if command[0] == "munged":
                _wait_for(munge.exists, folder)
        _wait_for(lambda: _node_state(environment) == "idle", folder)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _node_state(environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout.strip()


def _wait_for(condition, folder: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while not condition():
        if time.monotonic() > end:
            logs = [path.read_text(errors="replace")[-2000:] for path in folder.glob("log/*")]
            raise TimeoutError("SLURM did not start:\n" + "\n".join(logs))
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()
