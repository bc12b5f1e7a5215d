"""Candidate runtimes of a run, in the order they are tried: warm workers, docker, a virtual environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from orchestrator.catalog import ModelEntry, Stored
from orchestrator.errors import BaseImageError, OrchError, RuntimeUnsuitable, UsageError
from orchestrator.hardware import Selection
from orchestrator.inputs import InputSet
from orchestrator.paths import RunPaths
from orchestrator.plan import RunOptions, read_request_field
from orchestrator.runtimes import (
    AUTO_ORDER,
    NoWarmWorker,
    Runtime,
    WarmRuntime,
    choose_runtime,
    get_runtime,
    select_warm,
)
from orchestrator.system import Report


@dataclass
class Candidate:
    """A runtime that may suit a run. In a `with` block, the error that it does not is suppressed if another may."""

    runtime: Runtime
    why: str
    say: Report
    is_last: bool = True
    warm: WarmRuntime | None = None  # the runtime, where its workers were up before the run
    threads: int | None = None  # threads of those workers
    refusal: OrchError | None = None  # why it did not suit

    def paths(self, paths: RunPaths) -> RunPaths:
        """Return `paths` with the job folders where this runtime has them."""
        return paths if self.warm is None else self.warm.paths

    def accept(self, inputs: InputSet, weights: Mapping[str, Stored]) -> None:
        """Check that the workers can read images and weights. Raises RuntimeUnsuitable."""
        if self.warm is not None:
            self.warm.accept(inputs, weights)

    def __enter__(self) -> Candidate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self.warm is not None:
            self.warm.close()
        if not isinstance(error, RuntimeUnsuitable | BaseImageError) or self.is_last:
            return False
        self.refusal = error
        name = self.runtime.name if self.warm is None else "a warm worker"
        # What warm workers finished is in the run directory: the next candidate resumes the run.
        begins = "continuing without" if self.warm is not None and self.warm.has_started else "not using"
        why = f" ({'; '.join(error.why.splitlines())})" if error.why else ""
        self.say(f"{begins} {name}: {error.message}{why}{_next_step(error) if self.warm is not None else ''}")
        return True


def _next_step(error: Exception) -> str:
    """Return the end of a line about a warm worker: what to type to see, or to start, one that fits."""
    return f"; next: {getattr(error, 'hint', None) or 'orch ps'}"


def runtime_candidates(
    entry: ModelEntry, options: RunOptions, choice: Selection, paths: RunPaths, say: Report
) -> Iterator[Candidate]:
    """Return the runtimes to try. Raises UsageError, MachineError where one was asked for that cannot be used."""
    warm = _warm_candidate(entry, options, choice, paths, say)
    if warm is not None:
        yield warm
    yield from cold_candidates(options.runtime, read_request_field(paths), say)


def cold_candidates(name: str, begun: str | None, say: Report) -> Iterator[Candidate]:
    """Return the runtimes that start workers of their own; a run begun with one of them is resumed with it.

    Raises UsageError, MachineError.
    """
    if name == "auto" and begun is not None:
        yield Candidate(choose_runtime(begun)[0], "as the run was begun", say)
        return
    runtime, why = choose_runtime(name)
    others = AUTO_ORDER[AUTO_ORDER.index(runtime.name) + 1 :] if name == "auto" else ()
    candidate = Candidate(runtime, why, say, is_last=not others)
    yield candidate
    for number, other in enumerate(others, 1):
        refusal = candidate.refusal
        why = f"{candidate.runtime.name}: {refusal.message if refusal else 'unsuitable'}"
        candidate = Candidate(get_runtime(other), why, say, is_last=number == len(others))
        yield candidate


def _warm_candidate(
    entry: ModelEntry, options: RunOptions, choice: Selection, paths: RunPaths, say: Report
) -> Candidate | None:
    why_not = why_not_warm(options, paths)
    if why_not is not None:
        if options.warm:
            raise UsageError("--warm cannot be used for this run", why=why_not)
        return None
    try:
        selected = select_warm(entry, choice, paths, options.build, options.spool, say)
    except (RuntimeUnsuitable, OSError) as error:  # a spool must never end a run that can do without it
        if options.warm:
            raise
        if not isinstance(error, NoWarmWorker):
            why = error.why if isinstance(error, RuntimeUnsuitable) else error
            say(f"not using a warm worker: {why}{_next_step(error)}")
        return None
    return Candidate(selected.runtime, selected.why, say, bool(options.warm), selected.runtime, selected.threads)


def why_not_warm(options: RunOptions, paths: RunPaths) -> str | None:
    """Return why a run cannot use warm workers, whichever are up; None if it may."""
    begun = read_request_field(paths)
    if options.warm is False:
        return "--no-warm was given"
    if options.executor != "local":
        return f"the executor {options.executor} starts its own workers"
    if options.runtime not in ("auto", WarmRuntime.name):
        return f"the runtime asked for is {options.runtime}"
    if begun not in (None, WarmRuntime.name):
        return f"the run in {paths.root} was begun with the runtime {begun}"
    if options.limits.given():
        return f"{options.limits.given()[0]} was given, which warm workers got when they were started"
    if options.weights_folder is not None:
        return "warm workers do not see its weights"
    return None
