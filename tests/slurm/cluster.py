"""`python3 tests/slurm/cluster.py up | down`: a real Slurm of two nodes on this machine, to test on.

Needs the packages slurm-wlm and munge, and installs them where it may. Its keys, states, sockets and logs lie in one
temporary folder of this checkout, its ports are free ones: other daemons of the machine are not touched.
"""

import getpass
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(tempfile.gettempdir()) / f"diffprune-slurm-{os.getuid()}-{hashlib.sha256(bytes(ROOT)).hexdigest()[:8]}"
CONF = FOLDER / "slurm.conf"
NODES = ("n1", "n2")
COMMANDS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
PACKAGES = ("slurm-wlm", "munge")
PATIENCE = 60       # seconds for what should take a few

# Short waits everywhere, so that a test of a requeue or of a lost node takes seconds; more CPUs than the machine may have.
# cred_expire is what a job waits before it starts again. The partition `urgent` takes its CPUs from jobs in `work`.
SETTINGS = """\
ClusterName=diffprune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=5
KillWait=5
MinJobAge=60
MaxArraySize=101
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 State=UNKNOWN
PartitionName=work Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class Absent(Exception):
    """There can be no cluster here; the message says why."""


def environment() -> dict[str, str]:
    """What a process needs to speak to the cluster."""
    sbin = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    return {**os.environ, "SLURM_CONF": str(CONF), "PATH": sbin}


def missing() -> list[str]:
    return [command for command in COMMANDS if shutil.which(command, path=environment()["PATH"]) is None]


def version() -> tuple[int, ...]:
    """Slurm's, such as (22, 5)."""
    said = subprocess.run(["slurmd", "-V"], env=environment(), capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.split()[1].split(".")[:2])


def install() -> None:
    """Installs the packages; raises Absent where that is not possible."""
    if not missing():
        return
    words = [] if os.getuid() == 0 else ["sudo", "-n"]
    if any(shutil.which(word) is None for word in (*words, "apt-get")):
        raise Absent(f"Slurm is not installed ({', '.join(missing())}), and only root on Debian or Ubuntu can install it")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run([*words, "apt-get", "--quiet", *command], env=quiet, capture_output=True, text=True,
                              check=False)
    if done.returncode or missing():
        raise Absent(f"apt-get could not install {' and '.join(PACKAGES)}: {(done.stderr or done.stdout).strip()[-300:]}")


def up() -> None:
    """Starts the cluster where it does not run; returns when both nodes are idle.

    Raises Absent where Slurm is not installed, RuntimeError with where the logs are when it does not start.
    """
    if missing():
        raise Absent(f"Slurm is not installed ({', '.join(missing())}): install {' and '.join(PACKAGES)}")
    if not all(alive(name) for name in ("munged", "slurmctld", *NODES)):
        down()
        begin()
    settle()


def begin() -> None:
    """Writes down the cluster's settings and starts its daemons."""
    for name in ("munge", "state", "logs", *(f"spool-{node}" for node in NODES)):
        (FOLDER / name).mkdir(parents=True, mode=0o755)
    key = FOLDER / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    CONF.write_text(SETTINGS.format(host=socket.gethostname().split(".")[0], folder=FOLDER, user=getpass.getuser(),
                                    ports=free_ports(3)))
    if version() >= (23, 11):       # which looks for control groups unless told not to; older ones know no such word
        (FOLDER / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    munge = FOLDER / "munge"
    start("munged", "munged", "--foreground", "--force", "--num-threads=2", f"--key-file={key}", f"--socket={munge}/socket",
          f"--pid-file={munge}/pid", f"--seed-file={munge}/seed")
    wait_for((munge / "socket").exists, "munged opens its socket")
    start("slurmctld", "slurmctld", "-D", "-f", str(CONF))
    for node in NODES:
        start_node(node)


def start(name: str, *command: str) -> None:
    """Starts a daemon in a session of its own and keeps its process id."""
    with (FOLDER / "logs" / name).open("a") as log:
        process = subprocess.Popen(command, env=environment() | {"DIFFPRUNE_DAEMON": name}, stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, cwd="/", start_new_session=True)
    (FOLDER / f"{name}.started").write_text(str(process.pid))


def start_node(node: str) -> None:
    start(node, "slurmd", "-D", "-N", node, "-f", str(CONF))


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def pid(name: str) -> int:
    """The process id of a daemon that runs, else 0; a later process under the same number is not taken for it."""
    file = FOLDER / f"{name}.started"
    number = int(file.read_text()) if file.exists() else 0
    return number if number and marker(number, f"DIFFPRUNE_DAEMON={name}") and marker(number, str(CONF)) else 0


def marker(number: int, words: str) -> bool:
    """Whether `words` are in the environment of the process `number`, and it has not ended."""
    try:
        ended = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not ended and words.encode() in Path(f"/proc/{number}/environ").read_bytes()
    except OSError:
        return False


def alive(name: str) -> bool:
    return pid(name) != 0


def belonging(words: str) -> list[int]:
    """Processes of this cluster, jobs' included, that have `words` in their environment."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [n for n in numbers if n != os.getpid() and marker(n, words) and marker(n, f"SLURM_CONF={CONF}")]


def lose_node(node: str) -> None:
    """What a power cut does: the node's daemon and everything that ran on it are gone at once."""
    for number in [pid(node), *belonging(f"DIFFPRUNE_DAEMON={node}"), *belonging(f"SLURMD_NODENAME={node}")]:
        end(number, signal.SIGKILL)


def end(number: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if number:
            os.kill(number, how)


def ask(*command: str) -> str:
    """What a Slurm command prints; raises RuntimeError with what it says when it fails."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def states() -> dict[str, str]:
    """{node: its state, such as idle, down*, mixed}"""
    try:
        return dict(line.split() for line in ask("sinfo", "--noheader", "--Node", "--partition=work", "--format=%N %t"
                                                 ).splitlines())
    except RuntimeError:
        return {}


def settle() -> None:
    """Waits until both nodes are idle."""
    wait_for(lambda: states() == dict.fromkeys(NODES, "idle"), "both nodes are idle")


def wait_for(what: Callable[[], object], words: str, patience: float = PATIENCE) -> None:
    """Polls until `what()` is true; raises RuntimeError with where to look when it never is."""
    late = time.monotonic() + patience
    while not what():
        if time.monotonic() > late:
            raise RuntimeError(f"waited {patience:g} s until {words}, in vain: nodes {states()}, logs in {FOLDER}/logs")
        time.sleep(0.3)


def down() -> None:
    """Ends the cluster with its jobs, by process id, and removes its folder; fine where there is none."""
    for name in ("slurmctld", *NODES):
        end(pid(name), signal.SIGTERM)
    for number in belonging("SLURM"):
        end(number, signal.SIGKILL)
    end(pid("munged"), signal.SIGTERM)
    shutil.rmtree(FOLDER, ignore_errors=True)


def main() -> None:
    match sys.argv[1:]:
        case ["up"]:
            try:
                install()
                up()
            except Absent as why:
                sys.exit(f"no Slurm to test on: {why}")
            print(f"export SLURM_CONF={CONF}")
        case ["down"]:
            down()
        case _:
            sys.exit("usage: cluster.py up | down")


if __name__ == "__main__":
    main()
