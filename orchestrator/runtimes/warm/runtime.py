"""The runtime of warm workers: jobs are placed in a spool instead of containers being started."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from orchestrator.catalog.loader import StackEntry
from orchestrator.catalog.weights import Stored
from orchestrator.errors import RuntimeUnsuitable
from orchestrator.inputs.collect import InputSet
from orchestrator.paths import RunPaths
from orchestrator.runtimes.base import BuildOptions, Location, Prepared, Runtime, WorkerSpec
from orchestrator.runtimes.guest_contract import ALIVE_NAME, ALIVE_TIMEOUT, QUEUE_NAME, GuestPaths
from orchestrator.runtimes.warm.discover import Needs, WarmWorkerFound
from orchestrator.runtimes.warm.results import bring_back
from orchestrator.runtimes.warm.spool import Heartbeat, SpoolPaths
from orchestrator.runtimes.warm.staging import Placement, copy_limit, place, stage
from orchestrator.runtimes.warm.worker import JobSpec, WarmWorker
from orchestrator.system.display import Report

LEFT_SECONDS = 10 * ALIVE_TIMEOUT
"""A job folder that no host touched for so long is nobody's any more."""
WEIGHTS_SECONDS = 2.5
"""Weights fetched a moment ago are in the worker's next heartbeat."""

LOOK_AGAIN_SECONDS = 1.0

Look = Callable[[], list[WarmWorkerFound]]


def run_key(root: Path) -> str:
    """What the job folders of a run directory begin with: the spool may be shared by machines."""
    named = f"{socket.gethostname()}\0{os.getuid()}\0{root}"
    return hashlib.sha256(named.encode(errors="surrogateescape")).hexdigest()[:12]


@dataclass
class WarmRuntime(Runtime):
    """Jobs in a spool. Its name is docker's: what comes out is what containers of the same build would give."""

    spool: SpoolPaths
    needs: Needs
    paths: RunPaths
    """With job folders in the spool."""
    look: Look
    """The workers that fit at this moment."""
    say: Report
    name: str = "docker"
    _waited: bool = False
    started: bool = False
    """Whether a worker was handed a job yet."""
    _seen: list[WarmWorkerFound] = field(default_factory=list)
    _seen_at: float = -LOOK_AGAIN_SECONDS

    @classmethod
    def of_run(cls, spool: SpoolPaths, needs: Needs, paths: RunPaths, look: Look, say: Report) -> WarmRuntime:
        """The runtime of one run, whose job folders are in the spool."""
        return cls(spool, needs, replace(paths, spooled=spool.jobs / run_key(paths.root)), look, say)

    def locate(self, stack: StackEntry, variant: str, options: BuildOptions) -> Location:
        """Return the workers' spool: nothing is built."""
        return Location(str(self.spool.root), self.needs.identity, is_built=True)

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Nothing is built: the workers were found to be made of the same files."""
        return Prepared(stack, variant, self.name, self.needs.identity, str(self.spool.root))

    def accept(self, inputs: InputSet, weights: Mapping[str, Stored]) -> None:
        """Whether the workers see the weights, and the images or can be given them. Raises RuntimeUnsuitable."""
        self._check_weights(weights)
        to_stage = self._placement(self._worker(), inputs.roots).to_stage
        if to_stage:
            said = stage(inputs, to_stage, self._staged, copy_limit(), self.needs.stack)
            if said is not None:
                self.say(said)

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """As the workers say that they see them. Raises RuntimeUnsuitable while none is up."""
        seen = self._worker().heartbeat.paths
        job, opt = PurePosixPath(seen["spool"], "jobs", spec.job.name), PurePosixPath(seen["opt"])
        weights = PurePosixPath(seen["weights"], spec.weights.name)
        sources = {name: opt / "sources" / name for name in prepared.stack.spec.sources}
        cache = PurePosixPath(seen["cache"])
        return GuestPaths(job / "data", weights, job / "out", cache, job / QUEUE_NAME, opt / "stack", sources=sources)

    def start(self, prepared: Prepared, spec: WorkerSpec) -> WarmWorker:
        """Place a job for the workers that are up. Raises RuntimeUnsuitable while none is."""
        del prepared
        worker = self._worker()
        seen = self._placement(worker, spec.roots)
        data = spec.job / "data"
        data.mkdir(exist_ok=True)
        for number, folder in seen.seen_as.items():
            (data / str(number)).symlink_to(folder)
        beat = worker.heartbeat
        alike = [one for one in self._seen if one.heartbeat.paths == beat.paths and one.data == worker.data]
        tickets = self.spool.tickets(beat.stack, beat.variant)
        model = spec.weights.name
        owner = (beat.uid, beat.gid) if beat.uid != os.geteuid() else None
        ids = [one.heartbeat.id for one in alike]
        job = JobSpec(spec.name, spec.job, tickets, model, ids, spec.out, spec.log)
        started = WarmWorker(self.spool, job)
        if owner is not None:
            _hand_over(spec.job, owner)
        self.started, self._waited = True, False
        return started

    def reap(self, run: str, jobs: Path) -> int:
        """End this run's jobs that an orch process left behind, keep what they finished; clear what nobody wants."""
        key, found = run_key(self.paths.root), 0
        for folder in self._job_folders():
            if folder.name.startswith(f"{key}-"):
                found += 1
                with suppress(OSError):
                    (folder / "kill").touch()
                with suppress(OSError):
                    bring_back(folder / "out", self.paths.shards, {})
                shutil.rmtree(folder, ignore_errors=True)
            elif _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)
        return found

    def close(self) -> None:
        """Remove the images that were put into the spool."""
        shutil.rmtree(self._staged, ignore_errors=True)

    @property
    def _staged(self) -> Path:
        return self.spool.staged(run_key(self.paths.root))

    def _placement(self, worker: WarmWorkerFound, roots: Sequence[Path]) -> Placement:
        paths = worker.heartbeat.paths
        staged = PurePosixPath(paths["spool"]) / self._staged.relative_to(self.spool.root).as_posix()
        return place(roots, worker.data, PurePosixPath(paths["data"]), staged)

    def _worker(self) -> WarmWorkerFound:
        if not self._seen or time.monotonic() - self._seen_at > LOOK_AGAIN_SECONDS:
            self._seen, self._seen_at = self.look(), time.monotonic()
        if self._seen:
            return self._seen[0]
        if self.started and not self._waited:
            self._waited = True
            self.say("waiting for the warm worker to come back")
        raise RuntimeUnsuitable(
            f"no warm worker of {self.needs.stack} is up in {self.spool.root}",
            hint="start it again (docker compose up -d, or orch up); the same command goes on where it stopped",
        )

    def _check_weights(self, weights: Mapping[str, Stored]) -> None:
        until = time.monotonic() + WEIGHTS_SECONDS
        while True:
            missing = missing_weights(self._worker().heartbeat, weights)
            if missing is None:
                return
            if time.monotonic() > until:
                raise RuntimeUnsuitable(
                    f"the warm worker does not have the weights {missing}",
                    why="its folder of weights is another one than this orch's, or holds another file",
                    hint="start it with the same ORCH_HOME",
                )
            time.sleep(0.1)

    def _job_folders(self) -> list[Path]:
        try:
            return [path for path in self.spool.jobs.iterdir() if path.is_dir()]
        except OSError:
            return []


def missing_weights(worker: Heartbeat, weights: Mapping[str, Stored]) -> str | None:
    """The first weights file that a worker does not have as the host has it; None if it has all."""
    for stored in weights.values():
        if stored.path is None or not stored.path.is_file():
            continue  # in the image, or a folder, of which heartbeats say nothing
        state, name = stored.path.stat(), f"{stored.path.parent.name}/{stored.file}"
        same_file = worker.weights.get(name) == (state.st_size, int(state.st_mtime))
        # Weights that come with a stack are there twice, in its folder and in the cache, each with a time of its own.
        if not same_file and (stored.sha256 is None or worker.digests.get(name) != stored.sha256):
            return stored.file
    return None


def _is_left(folder: Path) -> bool:
    try:
        return time.time() - (folder / QUEUE_NAME / ALIVE_NAME).stat().st_mtime > LEFT_SECONDS
    except OSError:
        return False


def _hand_over(folder: Path, owner: tuple[int, int]) -> None:
    """Let another user's worker write into the job."""
    for path in (folder, folder / "out", *(folder / "out").iterdir()):
        os.chown(path, *owner)
