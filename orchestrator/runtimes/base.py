"""What a runtime is: it makes a variant real, and starts workers in it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from orchestrator.catalog.loader import StackEntry
from orchestrator.errors import MachineError, UsageError
from orchestrator.runtimes.guest_contract import GuestPaths
from orchestrator.system.display import Report


@dataclass(frozen=True)
class BuildOptions:
    """What a user may change of a build."""

    base_image: str | None = None
    rebuild: bool = False
    offline: bool = False
    build_args: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Prepared:
    """A variant made real: `identity` changes exactly when what goes into it changes."""

    stack: StackEntry
    variant: str
    runtime: str
    identity: str
    location: str
    """Image tag, or folder of the environment."""
    digest: str | None = None
    """The image's own id, where there is an image."""
    fresh: bool = False
    """Built just now."""
    seconds: float = 0.0


@dataclass(frozen=True)
class WorkerSpec:
    """One worker to start: folders on the host, and what to tell it. A pure value."""

    run: str
    name: str
    job: Path
    """Folder with job.json and queue/, read-only to the worker."""
    data: Path
    """Folder with a link 0, 1, … to each input root."""
    roots: Sequence[Path]
    weights: Path
    out: Path
    cache: Path
    log: Path
    """File that the worker's stderr goes to."""
    threads: int
    device: str = "cpu"
    """"cpu", "cuda" (the one GPU that the runtime shows, whichever), or "cuda:ID" with the index, the UUID or the MIG
    UUID of the GPU that the runtime shows the worker alone, which calls it "cuda"."""
    module: str = "orch_runner"
    """What is started: the runner, or one of its other programs."""


@dataclass(frozen=True)
class Exit:
    """How a worker ended: its exit status (negative or 128+n for signals), and what else is known."""

    code: int
    out_of_memory: bool = False
    detail: str | None = None

    def describe(self) -> str:
        """For people."""
        if self.out_of_memory:
            return "out of memory"
        signal_number = -self.code if self.code < 0 else self.code - 128
        names = {
            4: "illegal instruction",
            6: "abort",
            7: "bus error",
            8: "arithmetic error",
            9: "killed",
            11: "segmentation fault",
            15: "terminated",
        }
        meaning = self.detail or (names.get(signal_number) if self.code < 0 or self.code > 128 else None)
        return f"exit {self.code}" + (f", {meaning}" if meaning else "")


class Worker(Protocol):
    """A started runner."""

    name: str

    def lines(self) -> Iterator[bytes]:
        """The runner's stdout, line by line, until it ends. Blocks; lines may come twice (they are numbered)."""

    def wait(self) -> Exit:
        """Block until the worker has ended. Raises nothing: what cannot be known is in the Exit."""

    def terminate(self) -> None:
        """Ask it to finish the image at hand and leave (SIGTERM)."""

    def kill(self) -> None:
        """End it now."""

    def close(self) -> None:
        """Remove what is left of it."""


class Runtime(Protocol):
    """One way of making variants real."""

    name: str

    def available(self) -> str | None:
        """None if this machine has it, else why not."""

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Build what is missing. Raises BuildError, MachineError."""

    def build_place(self, stack: StackEntry, variant: str, options: BuildOptions) -> Path | None:
        """The folder that `prepare` would fill; None where it has nothing to build or the disk is not this machine's.

        Raises what `prepare` raises before it begins.
        """

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """The names under which a worker of this runtime sees its folders."""

    def require(self, devices: Sequence[str]) -> None:
        """Whether workers can be shown these devices. Raises MachineError before anything is built."""

    def start(self, prepared: Prepared, spec: WorkerSpec) -> Worker:
        """Start a worker whose job folder is written. Raises MachineError."""

    def reap(self, run: str, jobs: Path) -> int:
        """End workers of this run, job folders under `jobs`, that an orch process left behind; how many there were."""


def worker_environment(threads: int, cache: str, home: str) -> dict[str, str]:
    """Environment variables of every worker: threads are explicit, and nothing is written outside cache and home."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "NUMEXPR_NUM_THREADS": count,
        # Spinning threads cost 9–35% CPU on shared hosts and win nothing.
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "HOME": home,
        "XDG_CACHE_HOME": f"{cache}/xdg",
        "MPLCONFIGDIR": f"{cache}/matplotlib",
        "NUMBA_CACHE_DIR": f"{cache}/numba",
        "TORCH_HOME": f"{cache}/torch",
        "CUDA_CACHE_PATH": f"{cache}/cuda",
        "CUDA_CACHE_MAXSIZE": "4294967296",
    }


RUNTIMES = {
    "docker": "orchestrator.runtimes.docker.runtime:DockerRuntime",
    "venv": "orchestrator.runtimes.venv:VenvRuntime",
    "apptainer": "orchestrator.runtimes.apptainer:ApptainerRuntime",
}
AUTO_ORDER = ("docker", "venv")
"""Apptainer is taken by name only: where it is, an image archive need not be, and a venv would have done."""


def make_runtime(name: str) -> Runtime:
    """The runtime of that name, whether or not this machine has it. Raises UsageError."""
    if name not in RUNTIMES:
        raise UsageError(f"there is no runtime {name!r}", why=f"there is auto, {', '.join(RUNTIMES)}")
    module, _, attribute = RUNTIMES[name].partition(":")
    return cast(Runtime, getattr(importlib.import_module(module), attribute)())


def choose_runtime(name: str) -> tuple[Runtime, str]:
    """The runtime asked for, or with "auto" the first this machine has; and why. Raises MachineError."""
    if name != "auto":
        runtime = make_runtime(name)
        reason = runtime.available()
        if reason is not None:
            raise MachineError(f"the runtime {name} cannot be used here", why=reason, hint="orch doctor")
        return runtime, "asked for"
    reasons: list[str] = []
    for candidate in AUTO_ORDER:
        runtime = make_runtime(candidate)
        reason = runtime.available()
        if reason is None:
            return runtime, "; ".join(reasons) or "an engine answers"
        reasons.append(f"{candidate}: {reason}")
    raise MachineError("no runtime can be used here", why="; ".join(reasons), hint="orch doctor")
