"""`orch prune`: what orch left on this machine and no stack needs any more: found, shown, removed one by one.

Weights and run directories are never touched: the first cannot always be had again, the second are results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.catalog.loader import Catalog

DAY = 86400  # seconds
Remove = Callable[[], str | None]
"""Removes something; gives the reason where it has to stay."""


@dataclass(frozen=True)
class Scope:
    """What to look at: `everything`, not only what nobody needs; of some `stacks` (their names), or of all; images,
    environments and sources only where they were made more than `days` ago."""

    everything: bool = False
    stacks: Collection[str] = ()
    days: float = 0

    def covers(self, stack: str | None) -> bool:
        """Whether something of that stack is meant; None: it is of no stack."""
        return not self.stacks or stack in self.stacks

    def is_old(self, made: float) -> bool:
        """Whether something of that time, in seconds since the epoch, was made long enough ago."""
        return not self.days or time.time() - made > self.days * DAY


@dataclass(frozen=True)
class Leftover:
    """One thing that can go, what it takes on disk at most (images share layers), and why nobody needs it."""

    kind: str
    name: str
    bytes: int
    why: str
    remove: Remove

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {"kind": self.kind, "name": self.name, "bytes": self.bytes, "why": self.why}


@dataclass(frozen=True)
class Pruned:
    """What became of leftovers: those that are gone, and those that stay with the reason."""

    removed: tuple[Leftover, ...]
    kept: tuple[tuple[Leftover, str], ...]


def find_leftovers(catalog: Catalog, scope: Scope) -> tuple[list[Leftover], list[str]]:
    """What there is to remove, and notes on what could not be looked at. Removes nothing."""
    from orchestrator.workflows.prune.engine import engine_leftovers
    from orchestrator.workflows.prune.files import file_leftovers

    of_engine, notes = engine_leftovers(catalog, scope)
    return [*of_engine, *file_leftovers(catalog, scope)], notes


def prune(leftovers: Sequence[Leftover]) -> Pruned:
    """Remove them in order, so that an image follows the containers made from it."""
    removed, kept = [], []
    for one in leftovers:
        reason = one.remove()
        if reason is None:
            removed.append(one)
        else:
            kept.append((one, reason))
    return Pruned(tuple(removed), tuple(kept))
