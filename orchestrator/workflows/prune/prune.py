"""Find what orch left on this machine and no stack needs, and remove it.

Weights and run directories are never removed: weights may not be available again, run directories are results.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.catalog import Catalog
from orchestrator.workflows.prune.engine import engine_leftovers
from orchestrator.workflows.prune.files import file_leftovers
from orchestrator.workflows.prune.leftovers import Leftover, Pruned, Scope


def find_leftovers(catalog: Catalog, scope: Scope) -> tuple[list[Leftover], list[str]]:
    """Return what can be removed, and notes on what could not be searched. Removes nothing."""
    in_engine, notes = engine_leftovers(catalog, scope)
    return [*in_engine, *file_leftovers(catalog, scope)], notes


def remove_leftovers(leftovers: Sequence[Leftover]) -> Pruned:
    """Remove leftovers in order, so that an image follows the containers made from it."""
    removed, kept = [], []
    for one in leftovers:
        try:
            reason = one.remove()
        except OSError as error:
            reason = error.strerror or str(error)
        if reason is None:
            removed.append(one)
        else:
            kept.append((one, reason))
    return Pruned(tuple(removed), tuple(kept))
