"""Several models in one command, each a run of its own: builds beside runs, GPUs shared out, the CPU in turns."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.catalog.loader import Catalog, ModelEntry
from orchestrator.catalog.weights import weights_state
from orchestrator.dispatch.executors import make_executor
from orchestrator.dispatch.outcome import Outcome
from orchestrator.errors import Interrupted, MachineError, OrchError, UsageError
from orchestrator.plan.options import RunOptions
from orchestrator.system.display import BatchDisplay
from orchestrator.system.signals import Stop, passing_on
from orchestrator.system.subprocesses import end_steps
from orchestrator.workflows.run import run_model

SOON_SECONDS = 5.0
"""A model that is ready within that time is left its share of the GPUs; one that is built for longer is not."""
CHECK_SECONDS = 0.1


@dataclass(frozen=True)
class Asked:
    """One of several runs: the name it goes by, which is its folder too, and what `run` is told."""

    name: str
    entry: ModelEntry
    options: RunOptions


Ended = Outcome | OrchError


def run_batch(asked: Sequence[Asked], display: BatchDisplay) -> dict[str, Ended]:
    """Run all models; how each ended, by name. One that fails stops no other; the same call resumes.

    Raises only what is a bug in orch, and that when all have ended.
    """
    ended: dict[str, Ended] = {}
    bugs: list[BaseException] = []
    with passing_on() as stop, stop.told(end_steps), display.live():
        shared = Shared(stop)

        def work(one: Asked) -> None:
            try:
                ended[one.name] = _run_one(one, display, shared)
            except BaseException as error:
                bugs.append(error)

        threads = [threading.Thread(target=work, args=(one,), name=one.name, daemon=True) for one in asked]
        shared.begun.update({one.name: time.monotonic() for one in asked})
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(CHECK_SECONDS)  # a signal's handler runs between two of them
    if bugs:
        raise bugs[0]
    return {one.name: ended[one.name] for one in asked}


def _run_one(one: Asked, display: BatchDisplay, shared: Shared) -> Ended:
    turns = SharedTurns(one, display, shared)
    try:
        outcome = run_model(one.entry, one.options, display.display(one.name, shared.check), turns)
    except OrchError as error:
        return _failed(one, display, shared, error)
    except OSError as error:
        return _failed(one, display, shared, MachineError("the machine refuses", why=str(error), hint="orch doctor"))
    finally:
        shared.finished(one.name)
    words = f"done, {outcome.failed} failed" if outcome.failed else "done"
    display.finish(one.name, words if outcome.complete else "submitted")
    return outcome


def _failed(one: Asked, display: BatchDisplay, shared: Shared, error: OrchError) -> OrchError:
    if shared.stop.presses and not isinstance(error, Interrupted):  # a build that was ended says that it failed
        error = Interrupted("stopped")
    if isinstance(error, Interrupted):
        error.hint = error.hint or "the same command goes on where it stopped"
    display.finish(one.name, "stopped" if isinstance(error, Interrupted) else f"failed: {error.message}")
    return error


class Shared:
    """What the runs of one command share. Its locks are held for long; `check` ends a wait when the user stops."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.cpu = threading.Lock()
        self.begun: dict[str, float] = {}
        """When each run that has not ended was begun."""
        self.on_gpus: set[str] = set()
        """Runs that predict on GPUs, or wait for one."""
        self._elsewhere: set[str] = set()
        self._stacks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise Interrupted if the user asked to stop."""
        if self.stop.presses:
            raise Interrupted("stopped")

    def stack(self, name: str) -> threading.Lock:
        """One build of a stack at a time: the next one finds it done."""
        with self._lock:
            return self._stacks.setdefault(name, threading.Lock())

    def predicts(self, name: str, device: str) -> None:
        """A run is ready to predict."""
        (self.on_gpus if device == "cuda" else self._elsewhere).add(name)

    def finished(self, name: str) -> None:
        """A run has ended, or needs no device any more."""
        self.begun.pop(name, None)
        self.on_gpus.discard(name)

    def claims(self) -> int:
        """Runs that use GPUs now or will in a moment: those that are built for long leave theirs to the others."""
        now = time.monotonic()
        preparing = [
            name
            for name, begun in dict(self.begun).items()
            if name not in self.on_gpus | self._elsewhere and now - begun < SOON_SECONDS
        ]
        return len(self.on_gpus) + len(preparing)

    @contextmanager
    def held(self, lock: threading.Lock) -> Iterator[None]:
        """Hold a lock. Raises Interrupted when the user stops first."""
        while not lock.acquire(timeout=CHECK_SECONDS):
            self.check()
        try:
            self.check()
            yield
        finally:
            lock.release()


class SharedTurns:
    """The turns of one of several runs."""

    def __init__(self, one: Asked, display: BatchDisplay, shared: Shared) -> None:
        self._one, self._display, self._shared = one, display, shared

    @contextmanager
    def building(self) -> Iterator[None]:
        """Beside the other stacks' builds and all runs."""
        self._display.set_state(self._one.name, "building")
        with self._shared.held(self._shared.stack(self._one.entry.stack.name)):
            yield

    @contextmanager
    def predicting(self, device: str) -> Iterator[None]:
        """On the CPU one after another, as each uses all cores; on GPUs side by side, as many as there are."""
        self._shared.predicts(self._one.name, device)
        if device == "cpu":
            self._display.set_state(self._one.name, "waiting for its turn")
            with self._shared.held(self._shared.cpu):
                yield
            return
        self._display.set_state(self._one.name, "waiting for a GPU" if device == "cuda" else f"handed to {device}")
        yield
        self._shared.finished(self._one.name)

    def most_gpus(self, gpus: int) -> int:
        """An equal share, all of them for the last run."""
        return max(1, math.ceil(gpus / max(1, self._shared.claims())))


def all_that_run(catalog: Catalog, options: RunOptions) -> tuple[list[ModelEntry], dict[str, str]]:
    """For --all: the models that can run on this machine as it is, and why each of the others cannot."""
    able: list[ModelEntry] = []
    unable: dict[str, str] = {}
    for entry in catalog.models.values():
        reason = _why_not(entry, options)
        if reason is None:
            able.append(entry)
        else:
            unable[entry.name] = reason
    return able, unable


def _why_not(entry: ModelEntry, options: RunOptions) -> str | None:
    for key, weights in entry.spec.weights.items():
        if weights_state(entry, key) != "missing":
            continue
        if weights.manual is not None:
            return f"its weights are had by hand: orch weights add {entry.name} FILE"
        if options.offline:
            return "its weights are not in the cache, and nothing is fetched with --offline"
    try:
        make_executor(options.executor).choose(entry, options.variant, options.device)
    except (MachineError, UsageError) as error:
        return f"{error.message}: {error.why}" if error.why else error.message
    return None


def into_folders(entries: Sequence[ModelEntry], options: RunOptions) -> list[Asked]:
    """The same options for each model; with `out`, each gets the folder of its name in it."""
    return [
        Asked(entry.name, entry, replace(options, out=None if options.out is None else Path(options.out) / entry.name))
        for entry in entries
    ]


def exit_code(ended: Mapping[str, Ended]) -> int:
    """The worst of all."""
    codes = [int(one.failed > 0) if isinstance(one, Outcome) else one.exit_code for one in ended.values()]
    return max(codes, default=0)
