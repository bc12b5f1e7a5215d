"""How the workers of one case are run: in a venv, in containers, or as a warm worker over its spool."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.catalog.loader import load_catalog
from orchestrator.hardware.gpu_code import LABEL
from orchestrator.paths import RunPaths
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.warm.spool import VariantSpool, make_variant_folder

if TYPE_CHECKING:
    from tests.faults.cases import Case

STACKS = Path(__file__).resolve().parents[1] / "stacks"
STACK = "faulty"
START_SECONDS = 30.0


class VenvWorkers:
    """Workers in a Python environment on this machine; also what the other kinds of workers share."""

    limit = 180.0
    """Seconds after which a command counts as hung."""
    pace = 1.0
    """How much later than in a venv things happen to a run: it begins later."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def options(self) -> list[str]:
        """Return the options of `orch run`."""
        return ["--runtime", "venv", "--no-warm"]

    def start(self) -> None:
        """Start what must be up before the run."""

    def stop_all(self) -> None:
        """End what goes on without the command, before a file of the run is damaged."""

    def pids(self) -> list[int]:
        """Return this run's workers: those whose command line names a job folder."""
        return find_processes(f"{self.case.out}/jobs/")

    def leftovers(self) -> list[str]:
        """Return what a complete run should not have left."""
        return [f"process {pid}" for pid in self.pids()]

    def close(self) -> None:
        """Leave nothing running."""
        kill(self.pids())


class DockerWorkers(VenvWorkers):
    """Workers in containers: their main processes, as this machine sees them."""

    engine: str | None = None
    """The engine's address; None: the default one."""

    def options(self) -> list[str]:
        return ["--runtime", "docker", "--no-warm"]

    def pids(self) -> list[int]:
        docker = ["docker", *(["--host", self.engine] if self.engine else [])]
        label = f"label={LABEL}.run={RunPaths(self.case.out).key}"
        listed = subprocess.run([*docker, "ps", "-q", "--filter", label], capture_output=True, text=True, check=False)
        ids = listed.stdout.split()
        shown = [*docker, "inspect", "--format", "{{.State.Pid}}", *ids]
        found = subprocess.run(shown, capture_output=True, text=True, check=False).stdout if ids else ""
        return [int(line) for line in found.split() if line != "0"]


class WarmWorkers(VenvWorkers):
    """One warm worker with a spool of its own, started again when it ends, as `restart: unless-stopped` does."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.root = case.root / "warm"
        self.variant = VariantSpool(self.root / "spool", STACK, "cpu")
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_up)
        self._sees_images = case.chance.random() < 0.5
        """Whether the worker reads the images where they are; else they are staged in its spool."""

    def options(self) -> list[str]:
        return ["--warm", "--spool", str(self.variant.spool)]

    def start(self) -> None:
        for name in ("opt", "data", "cache", "weights"):
            (self.root / name).mkdir(parents=True)
        make_variant_folder(self.variant, (os.getuid(), os.getgid()), is_default=False)
        entry = load_catalog([STACKS]).stack(STACK)
        build_inputs(entry, "cpu", BuildOptions()).write_context(self.root / "opt", {})
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not list((self.variant.root / "workers").glob("[!.]*.files.json")):
            if time.monotonic() > deadline:
                raise AssertionError(f"the warm worker does not start: {(self.root / 'log').read_text()}")
            time.sleep(0.02)

    def _keep_up(self) -> None:
        data = self.case.images if self._sees_images else self.root / "data"
        paths = {name: str(self.root / name) for name in ("cache", "opt", "weights")} | {"data": str(data)}
        own = {"ORCH_STACK": STACK, "ORCH_VARIANT": "cpu", "ORCH_DEVICE": "cpu", "ORCH_PATHS": json.dumps(paths)}
        own |= {"ORCH_DATA_HOST": str(data), "PYTHONPATH": str(self.root / "opt" / "runner")}
        command = [self.case.setup.python, "-m", "orch_runner.serve", str(self.variant.root)]
        while not self._closing.is_set():
            with (self.root / "log").open("ab") as log:
                self._process = subprocess.Popen(command, env={**os.environ, **own}, stderr=log)
                self._process.wait()
            self._closing.wait(0.3)

    def pids(self) -> list[int]:
        """Return the worker and its model processes."""
        if self._process is None or self._process.poll() is not None:
            return []
        pid = self._process.pid
        with suppress(OSError):
            return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        return [pid]

    def leftovers(self) -> list[str]:
        patterns = ("jobs/*", "tickets/*", "claimed/*/*", "data/*")
        return [str(path) for pattern in patterns for path in self.variant.root.glob(pattern)]

    def close(self) -> None:
        self._closing.set()
        while self._thread.is_alive():
            kill(self.pids())
            self._thread.join(0.2)


def find_processes(mark: str) -> list[int]:
    """Return the processes whose command line has this in it."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if os.fsencode(mark) in path.read_bytes():
                pids.append(int(path.parent.name))
    return pids


def kill(pids: list[int]) -> None:
    """SIGKILL for those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
