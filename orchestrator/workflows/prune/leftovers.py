"""What `orch prune` finds, and the scope of its search."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

DAY = 86400  # seconds
Remove = Callable[[], str | None]  # remove something; return the reason where it must be kept. Raises OSError.


@dataclass(frozen=True)
class Scope:
    """What to search: `everything`, not only what is not needed; some `stacks` by name, or all.

    Images, environments and sources count only where they were made more than `days` ago.
    """

    everything: bool = False
    stacks: Collection[str] = ()
    days: float = 0

    def covers(self, stack: str | None) -> bool:
        """Return whether something of that stack is in scope; None: it belongs to no stack."""
        return not self.stacks or stack in self.stacks

    def is_old(self, made: float) -> bool:
        """Return whether `made`, in seconds since the epoch, is long enough ago."""
        return not self.days or time.time() - made > self.days * DAY


@dataclass(frozen=True)
class Leftover:
    """One thing that can be removed, its size at most (images share layers), why it is not needed."""

    kind: str
    name: str
    bytes: int
    why: str
    remove: Remove

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "bytes": self.bytes, "why": self.why}


@dataclass(frozen=True)
class Pruned:
    """The leftovers that were removed, and those that were kept with the reason."""

    removed: tuple[Leftover, ...]
    kept: tuple[tuple[Leftover, str], ...]
