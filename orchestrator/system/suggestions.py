"""What to say about a name that nothing known has: the nearest known names, at most five."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from orchestrator.errors import UsageError

MAX_SUGGESTIONS = 5


def unknown_name(kind: str, name: str, known: Iterable[str], *, hint: str | None = None) -> UsageError:
    """Return the error "unknown KIND 'NAME'" with the nearest of `known`; `hint` is the command that lists all."""
    return UsageError(f"unknown {kind} {name!r}", why=did_you_mean(name, known), hint=hint)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a sentence with the nearest known names, else with all of a few, or None where there are many."""
    names = sorted(set(known))
    by_lower_case = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=MAX_SUGGESTIONS, cutoff=0.6)
    if near:
        *others, last = [by_lower_case[candidate] for candidate in near]
        return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"
    return f"known: {', '.join(names)}" if 0 < len(names) <= MAX_SUGGESTIONS else None
