"""Run several models in one command: stacks build side by side, GPUs are divided, the CPU has one run at a time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.catalog import Catalog, ModelEntry, weights_state
from orchestrator.dispatch import Outcome, get_executor
from orchestrator.errors import Interrupted, MachineError, OrchError, UsageError
from orchestrator.plan import RunOptions
from orchestrator.system import BatchDisplay, StopRequests, share_signals, terminate_subprocesses
from orchestrator.workflows.run import run_model

READY_SECONDS = 5.0  # a run that prepares for longer than this has no share of the GPUs until it is ready to predict
CHECK_SECONDS = 0.1


@dataclass(frozen=True)
class RunRequest:
    """One of several runs; its name is unique and becomes its folder's."""

    name: str
    entry: ModelEntry
    options: RunOptions


RunResult = Outcome | OrchError


def run_batch(requests: Sequence[RunRequest], display: BatchDisplay) -> dict[str, RunResult]:
    """Run all models and return the result of each by its name. One that fails stops no other.

    The same call resumes all. Raises only what is a bug in orch, after all runs have ended.
    """
    results: dict[str, RunResult] = {}
    bugs: list[BaseException] = []
    with share_signals() as stop, stop.listen(terminate_subprocesses), display.live():
        state = BatchState(stop)

        def work(request: RunRequest) -> None:
            try:
                results[request.name] = _run_one(request, display, state)
            except BaseException as error:
                bugs.append(error)

        threads = [threading.Thread(target=work, args=(one,), name=one.name, daemon=True) for one in requests]
        state.started.update({request.name: time.monotonic() for request in requests})
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(CHECK_SECONDS)  # a signal's handler runs between two of them
    if bugs:
        raise bugs[0]
    return {request.name: results[request.name] for request in requests}


def _run_one(request: RunRequest, display: BatchDisplay, state: BatchState) -> RunResult:
    name = request.name
    sharing = BatchSharing(request, display, state)
    try:
        outcome = run_model(request.entry, request.options, display.display(name, state.check), sharing)
    except OrchError as error:
        return _fail(name, display, state, error)
    except OSError as error:
        return _fail(name, display, state, MachineError("the machine refuses", why=str(error), hint="orch doctor"))
    finally:
        state.release(name)
    result = f"done, {outcome.failed} failed" if outcome.failed else "done"
    display.finish(name, result if outcome.complete else "submitted")
    return outcome


def _fail(name: str, display: BatchDisplay, state: BatchState, error: OrchError) -> OrchError:
    if state.stop.count and not isinstance(error, Interrupted):  # a build that was stopped reports a failure
        error = Interrupted("stopped")
    if isinstance(error, Interrupted):
        error.hint = error.hint or "the same command resumes it"
    display.finish(name, "stopped" if isinstance(error, Interrupted) else f"failed: {error.message}")
    return error


class BatchState:
    """What the runs of one command share. Locks are held for long; `check` ends a wait when the user stops."""

    def __init__(self, stop: StopRequests) -> None:
        self.stop = stop
        self.cpu = threading.Lock()
        self.started: dict[str, float] = {}  # start of each run that has not ended, on the monotonic clock
        self.on_gpus: set[str] = set()  # runs that predict on GPUs, or wait for one
        self._off_gpus: set[str] = set()
        self._stacks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def check(self) -> None:
        if self.stop.count:
            raise Interrupted("stopped")

    def stack_lock(self, name: str) -> threading.Lock:
        """Return the lock of a stack's builds: the second of two equal builds then has nothing to do."""
        with self._lock:
            return self._stacks.setdefault(name, threading.Lock())

    def mark_ready(self, name: str, device: str) -> None:
        """Note that a run is ready to predict on `device`."""
        (self.on_gpus if device == "cuda" else self._off_gpus).add(name)

    def release(self, name: str) -> None:
        """Note that a run has ended, or needs no device any more."""
        self.started.pop(name, None)
        self.on_gpus.discard(name)

    def count_claims(self) -> int:
        """Return the number of runs that use GPUs now or will in a moment; those that build for long do not count."""
        now = time.monotonic()
        ready = self.on_gpus | self._off_gpus
        starts = [started for name, started in dict(self.started).items() if name not in ready]
        return len(self.on_gpus) + sum(now - started < READY_SECONDS for started in starts)

    @contextmanager
    def hold(self, lock: threading.Lock) -> Iterator[None]:
        """Hold a lock. Raises Interrupted when the user stops first."""
        while not lock.acquire(timeout=CHECK_SECONDS):
            self.check()
        try:
            self.check()
            yield
        finally:
            lock.release()


class BatchSharing:
    """The part of one of several runs in what they share."""

    def __init__(self, request: RunRequest, display: BatchDisplay, state: BatchState) -> None:
        self._request, self._display, self._state = request, display, state

    @contextmanager
    def building(self) -> Iterator[None]:
        """Build beside all runs and the builds of other stacks."""
        self._display.set_state(self._request.name, "building")
        with self._state.hold(self._state.stack_lock(self._request.entry.stack.name)):
            yield

    @contextmanager
    def predicting(self, device: str) -> Iterator[None]:
        """Predict: one run at a time on the CPU, as each uses all cores; side by side on GPUs."""
        name = self._request.name
        self._state.mark_ready(name, device)
        if device == "cpu":
            self._display.set_state(name, "waiting for the CPU")
            with self._state.hold(self._state.cpu):
                yield
            return
        self._display.set_state(name, "waiting for a GPU" if device == "cuda" else f"submitted to {device}")
        yield
        self._state.release(name)

    def most_gpus(self, gpus: int) -> int:
        """Return an equal share; all GPUs for the last run."""
        return max(1, math.ceil(gpus / max(1, self._state.count_claims())))


def find_runnable(catalog: Catalog, options: RunOptions) -> tuple[list[ModelEntry], dict[str, str]]:
    """Return the models that can run on this machine without further steps, and why each of the others cannot."""
    reasons = {name: _why_not(entry, options) for name, entry in catalog.models.items()}
    runnable = [catalog.models[name] for name, reason in reasons.items() if reason is None]
    return runnable, {name: reason for name, reason in reasons.items() if reason is not None}


def _why_not(entry: ModelEntry, options: RunOptions) -> str | None:
    for key, weights in entry.spec.weights.items():
        if weights_state(entry, key) != "missing":
            continue
        if weights.manual is not None:
            return f"weights must be downloaded manually; then: orch weights add {entry.name} FILE"
        if options.offline:
            return "weights are not in the cache, and --offline forbids to fetch them"
    try:
        get_executor(options.executor).select(entry, options.variant, options.device)
    except (MachineError, UsageError) as error:
        return f"{error.message}: {error.why}" if error.why else error.message
    return None


def make_requests(entries: Sequence[ModelEntry], options: RunOptions) -> list[RunRequest]:
    """Return a run of each model with the same options; with `out`, each gets the folder of its name in it."""
    requests = []
    for entry in entries:
        out = None if options.out is None else options.out / entry.name
        requests.append(RunRequest(entry.name, entry, options.model_copy(update={"out": out})))
    return requests
