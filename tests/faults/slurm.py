"""Workers in tasks of a real Slurm on loopback, which go on without the command that submitted them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.workers import VenvWorkers, find_processes, kill
from tests.slurm.conftest import NODES, Cluster, find_free_ports

if TYPE_CHECKING:
    from tests.faults.cases import Case

LEASE_SECONDS = 10
_NODES = threading.Lock()


@contextmanager
def start_cluster(root: Path) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """Start a cluster, and yield it with the environment of its users, whose claims run out soon."""
    for name in ("slurm", "scratch", "config/orch"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)  # munged has a user of its own
    (root / "config" / "orch" / "slurm.yaml").write_text(f"lease: {LEASE_SECONDS}\n")
    cluster = Cluster(root / "slurm", find_free_ports(NODES + 1))
    started = cluster.script("start")
    try:
        assert started.returncode == 0, started.stderr
        folders = {"XDG_CONFIG_HOME": str(root / "config"), "TMPDIR": str(root / "scratch")}
        yield cluster, {"SLURM_CONF": str(cluster.state / "slurm.conf"), **folders}
    finally:
        cluster.script("stop")


class SlurmWorkers(VenvWorkers):
    """Tasks of a job, and the workers they start."""

    limit = 240.0
    pace = 4.0

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        assert case.setup.cluster is not None
        self.cluster: Cluster = case.setup.cluster

    def options(self) -> list[str]:
        return ["--runtime", "venv", "--executor", "slurm", "--slurm", "gres=gpu:1", "--slurm", "tasks=2"]

    @property
    def job(self) -> str | None:
        """The submitted job."""
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads((self.case.out / "slurm.json").read_text())["job"])
        return None

    def ask(self, *command: str) -> str:
        """Return what a command of Slurm prints; "" where it fails, as for a job that has ended."""
        with suppress(subprocess.SubprocessError):
            return self.cluster.ask(*command)
        return ""

    def stop_all(self) -> None:
        """Cancel the run."""
        if self.job is not None:
            command = [sys.executable, "-m", "orchestrator", "cancel", str(self.case.out)]
            subprocess.run(command, env=self.case.environment, capture_output=True, timeout=self.limit, check=False)

    def pids(self) -> list[int]:
        """Return the tasks of the run and their workers, whose job folders bear the tasks' names."""
        tasks = [path.stem for path in (self.case.out / "tasks").glob("*.json")]
        marks = [f"orchestrator.dispatch.shared.task\0{self.case.out}", *(f"orch-{task}-" for task in tasks)]
        return sorted({pid for mark in marks for pid in find_processes(mark)})

    def lose_node(self, chance: random.Random) -> None:
        """Kill a node with all that runs on it, or its daemon alone, and bring it back."""
        number = chance.randint(1, NODES)
        with _NODES:
            (self.cluster.kill_node if chance.random() < 0.7 else self.cluster.kill_daemon)(number)
            self.cluster.bring_back(number)

    def close(self) -> None:
        job = self.job
        if job is not None:
            self.ask("scancel", "--quiet", job)
        kill(self.pids())
