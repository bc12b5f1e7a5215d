"""The Runtime protocol, and the values that a runtime takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from orchestrator.catalog import StackEntry
from orchestrator.errors import UsageError
from orchestrator.hardware import GpuCode
from orchestrator.runtimes.guest_contract import GuestPaths
from orchestrator.runtimes.limits import FILE_SIZE, NO_LIMITS, OUT_SIZE, Limits, refuse_limits
from orchestrator.system import Report


@dataclass(frozen=True)
class BuildOptions:
    """What a user may change of a build."""

    base_image: str | None = None
    rebuild: bool = False
    offline: bool = False
    build_args: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Location:
    """Where a runtime keeps a variant, built or not."""

    path: str
    """Image tag, file, or folder of the environment."""
    identity: str
    """Content hash of the build's inputs."""
    is_built: bool
    fill_folder: Path | None = None
    """A folder on the disk that a build fills; None: nothing to build, or not on a disk of this machine."""
    fill_factor: float = 1.0
    """Bytes that a build writes there, per byte of the variant's size."""
    gpu_code: GpuCode | None = None
    """What was read in the built variant; None where nothing was."""


@dataclass(frozen=True)
class Prepared:
    """A built variant. `identity` is the content hash of its build inputs."""

    stack: StackEntry
    variant: str
    runtime: str
    identity: str
    location: str
    """Image tag, file, or folder of the environment."""
    digest: str | None = None
    """The image's own id, where there is an image."""
    fresh: bool = False
    """Whether it was built just now."""
    seconds: float = 0.0


@dataclass(frozen=True)
class WorkerSpec:
    """One worker to start: its name, its folders on the host, threads and device. A pure value."""

    run: str
    name: str
    job: Path
    """Folder with job.json and queue/, read-only to the worker."""
    data: Path
    """Folder with a link 0, 1, … to each input root."""
    roots: Sequence[Path]
    weights: Path
    out: Path
    """The one folder that the worker writes its results to; no other worker uses it."""
    cache: Path
    log: Path
    """File that the worker's stderr goes to."""
    threads: int
    device: str = "cpu"
    """"cpu", "cuda" (any GPU), or "cuda:ID" with the index, UUID or MIG UUID of the one GPU that the worker may use.

    The runtime shows the worker only that GPU, which the worker itself always calls "cuda"."""
    module: str = "orch_runner"
    """The Python module to start: the runner, or another of its programs."""
    limits: Limits = NO_LIMITS
    """The limits in force."""


BUS_ERROR = "bus error: most likely /dev/shm is full"
"""Memory that a process maps is there only when it is used: a full /dev/shm then ends the process."""


@dataclass(frozen=True)
class Exit:
    """How a worker ended: its exit status (negative or 128+n for signals), and what else is known."""

    code: int
    out_of_memory: bool = False
    detail: str | None = None
    hint: str | None = None
    """What can be done about it, where the runtime knows."""

    def describe(self) -> str:
        """Return it in words."""
        if self.out_of_memory:
            return self.detail or "out of memory"
        signal_number = -self.code if self.code < 0 else self.code - 128
        names = {
            4: "illegal instruction",
            6: "abort",
            7: BUS_ERROR,
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
        """Yield the runner's stdout line by line until it ends. Blocks; lines may repeat (they are numbered)."""

    def wait(self) -> Exit:
        """Block until the worker has ended. Raises nothing: what is unknown is in the Exit."""

    def terminate(self) -> None:
        """Send SIGTERM: the worker finishes the current image and exits."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def close(self) -> None:
        """Remove what is left of it."""


@dataclass(frozen=True)
class Finding:
    """One line of `orch doctor`. A "problem" keeps some stacks from running; a "note" does not."""

    what: str
    status: Literal["ok", "note", "problem"]
    found: str
    step: str = ""
    """The next step, where something is missing."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Runtime(Protocol):
    """One way to build variants and to start workers in them.

    A new runtime is a subclass in a module of its own and one line in registry.py. It has `name` and the six methods
    without a body below; those with a body are the defaults.
    """

    name: str
    is_contained: bool = True
    """Whether workers are kept from what the caller can do."""
    limits: Limits = NO_LIMITS
    """The limits that were asked for."""

    def set_limits(self, asked: Limits) -> None:
        """Have workers started with these limits. Raises UsageError for one that the runtime cannot set."""
        refuse_limits(asked, self.name, frozenset({"--file-size", "--out-size"}))
        self.limits = asked

    def limits_in_force(self, workers: int) -> Limits:
        """Return the limits of each of so many workers that run at once. Raises MachineError."""
        asked = self.limits
        return Limits(file_size=asked.file_size or FILE_SIZE, out_size=asked.out_size or OUT_SIZE)

    def locate(self, stack: StackEntry, variant: str, options: BuildOptions) -> Location:
        """Return where the variant is or would be. Builds nothing.

        Folders in `environments_folder()` named STACK-VARIANT-DIGEST are removed by `orch prune` once no stack locates
        them. Raises what `prepare` raises before it begins: UsageError, SpecError, MachineError.
        """

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Build the variant unless it is built. Raises BuildError, MachineError, UsageError, SpecError."""

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """Return the names under which a worker sees its folders."""

    def start(self, prepared: Prepared, spec: WorkerSpec) -> Worker:
        """Start a worker whose job folder is written. Raises MachineError."""

    def worker_owner(self) -> tuple[int, int] | None:
        """Return the uid and gid that workers run as, who must own their out folders; None: the caller's."""
        return None

    def reap(self, run: str, jobs: Path) -> int:
        """End workers of this run that an orch process left behind, and return their number.

        `jobs` has the run's job folders.
        """

    def unavailable_reason(self) -> str | None:
        """Return why this machine cannot use the runtime; None where it can."""
        return None

    def require(self, devices: Sequence[str]) -> None:
        """Raise MachineError, before anything is built, where workers cannot be given these devices."""
        return

    def require_folders(self, folders: Sequence[Path]) -> None:
        """Raise MachineError, before anything is built, where workers would not see these folders of this machine."""
        return

    def findings(self, stacks: Sequence[StackEntry]) -> Iterator[Finding]:
        """Yield what `orch doctor` says about the runtime and about building these stacks with it."""
        reason = self.unavailable_reason()
        if reason is None:
            yield Finding(f"runtime {self.name}", "ok", "can be used")
        else:
            yield Finding(f"runtime {self.name}", "note", reason, "use another runtime: --runtime NAME")

    def archive(self, prepared: Prepared, options: BuildOptions, report: Report, folder: Path | None) -> Path:
        """Write the variant into a file for other machines and return its path.

        `folder` None: where such files are looked for. Raises UsageError where the runtime has none.
        """
        raise UsageError(f"the runtime {self.name} has no images to archive", hint="--runtime docker")


def worker_environment(threads: int, cache: str, home: str) -> dict[str, str]:
    """Return every worker's environment variables: explicit threads, and all writing in cache and home."""
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
