"""What the unexpected exit of a worker means: for the run, for its slot, or for that worker alone. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError, OrchError, RunError
from orchestrator.runtimes import Exit, suggest_library

MOST_IDLE_EXITS = 4
"""Workers of one slot that may exit one after another before a shard is begun."""
MOST_DEVICE_FAILURES = 2
"""Times that a device which worked may fail to start a worker before its slot is retired."""
RESUME_HINT = "fix that, then run the same command again: it resumes where it stopped"
LOST_HINT = "see whether the engine answers (docker info), then run the same command again: it resumes where it stopped"
MEMORY_HINT = "fewer workers (--workers N, --workers-per-gpu N) or smaller batches (--batch-size N) need less memory"
FAILURE_CODES = (2, 3, 4, 5)
"""Exit codes of a runner that reported a failure event."""

REBUILD_HINT = "build the stack with this version of orch: orch build STACK; start warm workers again: orch up STACK"


@dataclass(frozen=True)
class WorkerFailure:
    """Unexpected exit of a worker. `failure`: the runner's failure event; `idle`: no shard begun."""

    slot: int
    device: str
    exit: Exit
    failure: dict[str, Any] | None
    idle: bool
    log: Path
    others_work: bool = False
    """Whether another worker has loaded the model."""

    @property
    def reason(self) -> str:
        """The runner's message, or how it exited."""
        return str(self.failure["message"]) if self.failure else self.exit.describe()

    @property
    def category(self) -> str | None:
        """The kind of failure that the runner reported; None where it reported none."""
        return str(self.failure["category"]) if self.failure and self.exit.code in FAILURE_CODES else None

    @property
    def hint(self) -> str | None:
        """What can be done about it, as the runner says; for a runner of another version, as orch knows."""
        hint = self.failure.get("hint") if self.failure else self.exit.hint
        if hint is None and self.category == "contract":
            return REBUILD_HINT
        return hint or suggest_library(self.reason)


@dataclass
class WorkerFailures:
    """The failures in each slot since it last finished a shard."""

    proven: set[int] = field(default_factory=set)
    """Slots where a shard was finished."""
    _idle_exits: dict[int, int] = field(default_factory=dict)
    _device_failures: dict[int, int] = field(default_factory=dict)

    def record_success(self, slot: int) -> None:
        """Note that a shard was finished in a slot."""
        self.proven.add(slot)
        self._idle_exits[slot] = self._device_failures[slot] = 0

    def judge(self, failure: WorkerFailure) -> OrchError | None:
        """Return what is wrong with the slot; None where another worker may be started in it.

        Raises RunError or MachineError for what every other worker would meet as well, on whatever device.
        """
        if failure.category == "device":
            return self._judge_device(failure)
        if failure.category == "memory" or (failure.exit.out_of_memory and failure.idle and failure.others_work):
            # No room for one more worker: those that work go on. The dispatcher raises this where it is the last slot.
            return MachineError(failure.reason, hint=failure.hint or MEMORY_HINT, log=failure.log)
        if failure.category is not None and failure.category != "bug":
            kinds: dict[str, type[OrchError]] = {"weights": MachineError}
            raise kinds.get(failure.category, RunError)(failure.reason, hint=failure.hint, log=failure.log)
        if not failure.idle:
            return None
        self._idle_exits[failure.slot] = self._idle_exits.get(failure.slot, 0) + 1
        if self._idle_exits[failure.slot] < MOST_IDLE_EXITS:
            return None
        error = RunError(
            "workers exit before they begin a shard", why=failure.reason, log=failure.log, hint=failure.hint
        )
        if not (self.proven - {failure.slot} or failure.others_work):
            raise error  # no other slot works either
        return error

    def _judge_device(self, failure: WorkerFailure) -> OrchError | None:
        if failure.slot not in self.proven:
            return MachineError(failure.reason, hint=failure.hint, log=failure.log)
        # A device that fails in the middle of a shard may not be at fault: the scheduler blames images.
        self._device_failures[failure.slot] = self._device_failures.get(failure.slot, 0) + failure.idle
        if self._device_failures[failure.slot] < MOST_DEVICE_FAILURES:
            return None
        return MachineError(f"{failure.device} is lost", why=failure.reason, log=failure.log, hint=RESUME_HINT)
