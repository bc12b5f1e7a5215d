"""A real Slurm on loopback: one controller, five nodes with made-up GPUs; and orch used through it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.workflows.demo.scenes import write_scenes
from tests.conformance.pictures import photograph

SCRIPT = Path(__file__).parent.parent.parent / ".ci" / "slurm.sh"
STACKS = Path(__file__).parent.parent / "stacks"
SETTINGS = "lease: 10\n"
NODES = 5
LOST_AFTER = 90.0


class Cluster:
    """Slurm's daemons, by the script that CI starts them with."""

    def __init__(self, state: Path, port: int) -> None:
        self.state = state
        self.environment = {**os.environ, "ORCH_SLURM_STATE": str(state), "ORCH_SLURM_PORT": str(port)}
        self.environment |= {"ORCH_SLURM_NODES": str(NODES), "SLURM_CONF": str(state / "slurm.conf")}

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300, check=False)

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    def kill_node(self, number: int) -> None:
        """SIGKILL for a node's daemon and everything under it, as when the machine goes."""
        daemon = int((self.state / f"slurmd-n{number}.started").read_text())
        steps = [pid for pid in processes() if "slurmstepd: [" in command_of(pid) and _is_of_node(pid, number)]
        for pid in [daemon, *(child for step in steps for child in [step, *descendants(step)])]:
            _kill(pid)

    def kill_daemon(self, number: int) -> None:
        """SIGKILL for a node's daemon alone: Slurm takes the node for lost, its tasks go on."""
        _kill(int((self.state / f"slurmd-n{number}.started").read_text()))

    def bring_back(self, number: int) -> None:
        self.script("node", str(number))
        wait_for(lambda: self.ask("sinfo", "-h", "-n", f"n{number}", "-o", "%T") in ("idle", "mixed", "allocated"))


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for one in processes():
        try:
            parent = int(Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(one)
    found, new = [], parents.get(pid, [])
    while new:
        found += new
        new = [child for one in new for child in parents.get(one, [])]
    return found


def _is_of_node(pid: int, number: int) -> bool:
    for one in descendants(pid):
        try:
            if f"SLURMD_NODENAME=n{number}".encode() in Path(f"/proc/{one}/environ").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], Any], seconds: float = LOST_AFTER) -> None:
    """Until it holds; fails when it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.2)


def find_free_ports(count: int) -> int:
    for _ in range(50):
        base = random.randrange(30000, 50000)
        try:
            for port in range(base, base + count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Started once; skipped where there is no Slurm, except where one is required."""
    required = bool(os.environ.get("ORCH_REQUIRE_SLURM"))
    missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
    problem = "starting a Slurm needs root" if os.geteuid() != 0 else None
    if missing and not required:
        problem = f"{', '.join(missing)} not found: apt-get install slurm-wlm munge"
    if problem and not required:
        pytest.skip(problem)
    state = Path(tempfile.mkdtemp(prefix="orch-slurm-"))
    state.chmod(0o755)  # munged has a user of its own
    cluster = Cluster(state, find_free_ports(NODES + 1))
    started = cluster.script("start")
    try:
        assert started.returncode == 0, started.stderr
        yield cluster
    finally:
        cluster.script("stop")
        shutil.rmtree(state, ignore_errors=True)


class Orch:
    """The command line on the cluster's login node."""

    def __init__(self, cluster: Cluster, home: Path, config: Path, scratch: Path) -> None:
        self.environment = {**cluster.environment, "ORCH_HOME": str(home), "XDG_CONFIG_HOME": str(config)}
        self.environment |= {"ORCH_STACKS": str(STACKS), "TMPDIR": str(scratch)}

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "orchestrator", *(str(one) for one in arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *arguments: object, expect: int = 0) -> str:
        """Run it, check its exit code, and return what it printed."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=200)
        assert "Traceback" not in errors, errors
        assert process.returncode == expect, f"exit {process.returncode}\n{output}\n{errors}"
        return output + errors

    def status(self, run: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("status", run, "--json"))
        return found


@pytest.fixture(scope="session")
def orch(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Orch:
    """With a user's file that shortens the lease: nobody wants to wait three minutes."""
    config = tmp_path_factory.mktemp("config")
    (config / "orch").mkdir()
    (config / "orch" / "slurm.yaml").write_text(SETTINGS)
    kept = os.environ.get("ORCH_TEST_CACHE")
    home = Path(kept) / "orch-home" if kept else tmp_path_factory.mktemp("orch-home")
    return Orch(cluster, home, config, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hundred images: sixty drawn scenes under five names each."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, range(60), size=96)
    (folder / "annotations.json").unlink()
    for file in sorted(folder.iterdir()):
        for copy in range(4):
            shutil.copyfile(file, file.with_stem(f"{file.stem}-{copy}"))
    return folder


@pytest.fixture(scope="session")
def few(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of the sixty."""
    folder = tmp_path_factory.mktemp("few")
    for file in sorted(photographs.iterdir())[:24]:
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small images."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(60):
        Image.fromarray(photograph(60 + number)).save(folder / f"{number:03}.png")
    return folder
