"""What all cases share: the built stack, and the engine or cluster of their own that some runtimes need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.disks import unmount_below
from tests.faults.engine import EngineWorkers, PrivateEngine
from tests.faults.slurm import SlurmWorkers, start_cluster
from tests.faults.workers import STACK, STACKS, DockerWorkers, VenvWorkers, WarmWorkers

if TYPE_CHECKING:
    from tests.faults.cases import Case
    from tests.slurm.conftest import Cluster

ROOT = Path(__file__).resolve().parents[2]
WORKERS: Mapping[str, Callable[[Case], VenvWorkers]] = {
    "venv": VenvWorkers,
    "docker": DockerWorkers,
    "warm": WarmWorkers,
    "engine": EngineWorkers,
    "slurm": SlurmWorkers,
}
"""How workers are run, by the names of --runtime."""
BUILT_FOR = {"docker": "docker", "engine": "docker"}
"""The runtime that the stack is built for, where that is not venv."""


@dataclass
class Setup:
    """A cache with the built stack, and the digests of undisturbed runs."""

    root: Path
    environment: dict[str, str]
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    """Further variables of a runtime."""
    python: str = ""
    """The interpreter of the built environment."""
    engine: PrivateEngine | None = None
    cluster: Cluster | None = None
    references: dict[tuple[str, str, str, int], str] = field(default_factory=dict)

    def build(self, runtime: str) -> dict[str, Any]:
        """Build the stack for a runtime; return what `orch build` says about it."""
        command = [sys.executable, "-m", "orchestrator", "build", STACK, "--runtime", runtime, "--json"]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, check=True, capture_output=True, text=True)
        built: dict[str, Any] = json.loads(done.stdout)
        return built


@contextmanager
def open_setup(runtimes: Sequence[str]) -> Iterator[Setup]:
    """Build the stack once, in a cache of its own, and start what these runtimes need."""
    base = os.environ.get("ORCH_TEST_BASE_IMAGE") or os.environ.get("ORCH_BASE_IMAGE")
    with tempfile.TemporaryDirectory(prefix="orch-faults-") as folder, ExitStack() as stack:
        root = Path(folder)
        stack.callback(unmount_below, root)
        environment = {
            **os.environ, "ORCH_HOME": str(root / "home"), "ORCH_STACKS": str(STACKS), "NO_COLOR": "1",
            "ORCH_SKIP_DISK_CHECK": "1",  # or no run would begin on the small disks
            **({"ORCH_BASE_IMAGE": base} if base else {}),
        }  # fmt: skip
        setup = Setup(root, environment)
        built = {name: setup.build(name) for name in {BUILT_FOR.get(runtime, "venv") for runtime in runtimes}}
        if "venv" in built:
            setup.python = f"{built['venv']['location']}/bin/python"
        if "engine" in runtimes:
            setup.engine = PrivateEngine(root / "engine")
            stack.callback(setup.engine.close)
            setup.engine.start()
            setup.engine.copy_image(built["docker"]["location"], environment)
            setup.environments["engine"] = {"DOCKER_HOST": setup.engine.address}
        if "slurm" in runtimes:
            setup.cluster, setup.environments["slurm"] = stack.enter_context(start_cluster(root))
        yield setup
