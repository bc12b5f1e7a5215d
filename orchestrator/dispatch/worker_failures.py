"""What the end of a worker means: for the run, for its place, or for itself alone. Pure: no clock, no process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError, OrchError, RunError
from orchestrator.runtimes.base import Exit

MOST_IDLE_DEATHS = 4
"""So many workers of one place may die one after another without having begun a shard."""
MOST_DEVICE_FAILURES = 2
"""So often a device that worked may fail to start a worker again before its place is retired."""
GOES_ON = "once that is mended, the same command goes on where it stopped"
FAILED = (2, 3, 4, 5)
"""Exit codes with which a runner says that it failed, and why."""


@dataclass(frozen=True)
class Loss:
    """One worker's end before its time: `failure` is the runner's own event, `idle` says that no shard was begun."""

    place: int
    device: str
    ended: Exit
    failure: dict[str, Any] | None
    idle: bool
    log: Path

    @property
    def reason(self) -> str:
        """For people."""
        return str(self.failure["message"]) if self.failure else self.ended.describe()

    @property
    def category(self) -> str | None:
        """What the runner says failed; None where it does not."""
        return str(self.failure["category"]) if self.failure and self.ended.code in FAILED else None


@dataclass
class Losses:
    """The losses of a run by place, since each place last finished a shard."""

    proven: set[int] = field(default_factory=set)
    """Places where a shard was finished."""
    _deaths: dict[int, int] = field(default_factory=dict)
    _device_failures: dict[int, int] = field(default_factory=dict)

    def worked(self, place: int) -> None:
        """A shard was finished there."""
        self.proven.add(place)
        self._deaths[place] = self._device_failures[place] = 0

    def place_lost(self, loss: Loss) -> OrchError | None:
        """None where another worker may be started in the same place; else what is wrong with the place.

        Raises for what every other worker would meet as well, on whatever device.
        """
        if loss.category == "device":
            return self._device_lost(loss)
        if loss.category is not None and loss.category != "bug":
            kinds: dict[str, type[OrchError]] = {"weights": MachineError}
            hint = loss.failure.get("hint") if loss.failure else None
            raise kinds.get(loss.category, RunError)(loss.reason, hint=hint, log=loss.log)
        if not loss.idle:
            return None
        self._deaths[loss.place] = self._deaths.get(loss.place, 0) + 1
        if self._deaths[loss.place] < MOST_IDLE_DEATHS:
            return None
        error = RunError("workers end before they begin a shard", why=loss.reason, log=loss.log)
        if not self.proven - {loss.place}:
            raise error  # nothing says that it is the place
        return error

    def _device_lost(self, loss: Loss) -> OrchError | None:
        if loss.place not in self.proven:
            hint = loss.failure.get("hint") if loss.failure else None
            return MachineError(loss.reason, hint=hint, log=loss.log)
        # One that fails in the middle of a shard may be the image's fault: the schedule finds that out.
        self._device_failures[loss.place] = self._device_failures.get(loss.place, 0) + loss.idle
        if self._device_failures[loss.place] < MOST_DEVICE_FAILURES:
            return None
        return MachineError(f"{loss.device} is lost", why=loss.reason, log=loss.log, hint=GOES_ON)
