"""The runtime of warm workers: instead of starting containers, it writes jobs into their spool."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from orchestrator.catalog import StackEntry, Stored
from orchestrator.errors import RuntimeUnsuitable
from orchestrator.inputs import InputSet
from orchestrator.paths import RunPaths
from orchestrator.runtimes.base import BuildOptions, Location, Prepared, Runtime, WorkerSpec
from orchestrator.runtimes.guest_contract import ALIVE_NAME, ALIVE_TIMEOUT, QUEUE_NAME, GuestPaths, writing_job
from orchestrator.runtimes.warm.discover import DiscoveredWorker, Needs
from orchestrator.runtimes.warm.heartbeat import Heartbeat
from orchestrator.runtimes.warm.spool import DATA, JOBS, VariantSpool, given_to
from orchestrator.runtimes.warm.staging import RootLocations, locate_roots, read_copy_limit, stage_images
from orchestrator.runtimes.warm.worker import JobSpec, WarmWorker
from orchestrator.system import GuestTree, Report

ABANDONED_SECONDS = 10 * ALIVE_TIMEOUT
"""A job folder that no host gave a sign of life for this long is abandoned, by the file system's own clock."""
WEIGHTS_SECONDS = 2.5
"""Seconds to wait for weights that were just fetched: they are in the worker's next heartbeat."""
DISCOVER_SECONDS = 1.0
"""Seconds for which discovered workers are used without discovering them again."""

Discover = Callable[[], list[DiscoveredWorker]]


@dataclass
class WarmRuntime(Runtime):
    """Starts jobs in a spool. Its name is docker's: results are those of containers of the same build."""

    spool: VariantSpool
    needs: Needs
    paths: RunPaths
    """With job folders in the spool."""
    discover: Discover
    """Returns the workers that fit at this moment."""
    say: Report
    name: str = "docker"
    has_started: bool = False
    """Whether a worker was given a job yet."""
    _has_reported_waiting: bool = False
    _workers: list[DiscoveredWorker] = field(default_factory=list)
    _discovered_at: float = -DISCOVER_SECONDS

    @classmethod
    def of_run(cls, spool: VariantSpool, needs: Needs, paths: RunPaths, discover: Discover, say: Report) -> WarmRuntime:
        """Return the runtime of one run, with the run's job folders in the spool."""
        paths = RunPaths(paths.root, spooled=spool.root / JOBS / paths.key, spool_root=spool.root)
        return cls(spool, needs, paths, discover, say)

    def locate(self, stack: StackEntry, variant: str, options: BuildOptions) -> Location:
        """Return the spool of the workers: nothing is built."""
        return Location(str(self.spool.root), self.needs.identity, is_built=True)

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Build nothing: the workers were built from the same files."""
        return Prepared(stack, variant, self.name, self.needs.identity, str(self.spool.root))

    def accept(self, inputs: InputSet, weights: Mapping[str, Stored]) -> None:
        """Check the workers' weights; stage images that they cannot read. Raises RuntimeUnsuitable."""
        self._check_weights(weights)
        to_stage = self._locate(self._worker(), inputs.roots).to_stage
        if not to_stage:
            return
        try:
            with self.spool.open() as tree:
                report = stage_images(inputs, to_stage, tree, self._staged, read_copy_limit(), self.needs.stack)
        except OSError as error:
            raise RuntimeUnsuitable(
                f"cannot put images into {self.spool.root}", why=f"{error.filename}: {error.strerror}", hint="orch ps"
            ) from error
        if report is not None:
            self.say(report)

    def worker_owner(self) -> tuple[int, int] | None:
        """Return who owns the folder of the workers, where that is not the caller. Raises RuntimeUnsuitable."""
        try:
            with self.spool.open() as tree:
                return given_to(tree)
        except OSError as error:
            raise RuntimeUnsuitable(f"cannot open {self.spool.root}", why=error.strerror, hint="orch ps") from error

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """Return the folders as the workers report them. Raises RuntimeUnsuitable while none is up."""
        seen = self._worker().heartbeat.paths
        job, opt = PurePosixPath(seen["spool"], "jobs", spec.job.name), PurePosixPath(seen["opt"])
        weights = PurePosixPath(seen["weights"], spec.weights.name)
        sources = {name: opt / "sources" / name for name in prepared.stack.spec.sources}
        cache = PurePosixPath(seen["cache"])
        return GuestPaths(job / "data", weights, job / "out", cache, job / QUEUE_NAME, opt / "stack", sources=sources)

    def start(self, prepared: Prepared, spec: WorkerSpec) -> WarmWorker:
        """Write a job for the workers that are up. Raises RuntimeUnsuitable while none is."""
        worker = self._worker()
        folder = self.paths.job_folder(spec.name)
        with writing_job(folder) as tree:
            data = f"{folder.name}/data"
            tree.make_folder(data)
            for number, seen_as in self._locate(worker, spec.roots).seen_as.items():
                tree.link_to(f"{data}/{number}", str(seen_as))
        beat = worker.heartbeat
        ids = [
            other.heartbeat.id
            for other in self._workers
            if other.heartbeat.paths == beat.paths and other.data == worker.data
        ]
        with writing_job(folder):
            job = WarmWorker(self.spool, JobSpec(spec.name, spec.job, spec.weights.name, ids, spec.log))
        self.has_started, self._has_reported_waiting = True, False
        return job

    def reap(self, run: str, jobs: Path) -> int:
        """End this run's jobs that an earlier orch left, and return their number.

        Abandoned jobs of other runs are removed.
        """
        key, count = self.paths.key, 0
        with suppress(OSError, RuntimeUnsuitable), self.spool.open() as tree:
            for name in tree.names(JOBS):
                folder = f"{JOBS}/{name}"
                if name.startswith(f"{key}-"):
                    count += 1
                    with suppress(OSError):
                        tree.touch(f"{folder}/kill")
                    tree.remove_folder(folder)
                elif _is_abandoned(tree, folder):
                    tree.remove_folder(folder)
        return count

    def close(self) -> None:
        """Remove the staged images."""
        with suppress(OSError, RuntimeUnsuitable), self.spool.open() as tree:
            tree.remove_folder(self._staged)

    @property
    def _staged(self) -> str:
        """The folder of images that no worker can read where they are, by its name in the spool."""
        return f"{DATA}/{self.paths.key}"

    def _locate(self, worker: DiscoveredWorker, roots: Sequence[Path]) -> RootLocations:
        paths = worker.heartbeat.paths
        staged = PurePosixPath(paths["spool"]) / self._staged
        return locate_roots(roots, worker.data, PurePosixPath(paths["data"]), staged)

    def _worker(self) -> DiscoveredWorker:
        """Return a worker that is up and fits. Raises RuntimeUnsuitable while there is none."""
        if not self._workers or time.monotonic() - self._discovered_at > DISCOVER_SECONDS:
            self._workers, self._discovered_at = self.discover(), time.monotonic()
        if self._workers:
            return self._workers[0]
        if self.has_started and not self._has_reported_waiting:
            self._has_reported_waiting = True
            self.say("waiting for the warm worker to come back")
        raise RuntimeUnsuitable(
            f"no warm worker of {self.needs.stack} is up in {self.spool.root}",
            hint="start it (docker compose up -d, or orch up) and run the same command again: it resumes",
        )

    def _check_weights(self, weights: Mapping[str, Stored]) -> None:
        until = time.monotonic() + WEIGHTS_SECONDS
        while True:
            missing = find_missing_weights(self._worker().heartbeat, weights)
            if missing is None:
                return
            if time.monotonic() > until:
                raise RuntimeUnsuitable(
                    f"the warm worker does not have the weights {missing}",
                    why="its folder of weights is not this orch's, or holds another file",
                    hint=f"start it with the same ORCH_HOME: orch up {self.needs.stack}; or, for Compose, write "
                    "compose.yaml and .env again, with the --stacks of the model",
                )
            time.sleep(0.1)


def find_missing_weights(worker: Heartbeat, weights: Mapping[str, Stored]) -> str | None:
    """Return the first weights file that a worker lacks or has another version of; None if it has all."""
    for stored in weights.values():
        if stored.path is None or not stored.path.is_file():
            continue  # in the image, or a folder: not in heartbeats
        state, name = stored.path.stat(), f"{stored.path.parent.name}/{stored.file}"
        same_file = worker.weights.get(name) == (state.st_size, int(state.st_mtime))
        # Weights that come with a stack exist twice, in its folder and in the cache, with different times.
        if not same_file and (stored.sha256 is None or worker.digests.get(name) != stored.sha256):
            return stored.file
    return None


def _is_abandoned(tree: GuestTree, folder: str) -> bool:
    """Return whether no host changed the sign of life of a job of the caller's for long."""
    name = f"{folder}/{QUEUE_NAME}/{ALIVE_NAME}"
    state = tree.state(name)
    if state is None or state.uid != os.geteuid():
        return False
    return (tree.clock_ns() - state.mtime_ns) / 1e9 > ABANDONED_SECONDS
