"""The score floor and the most instances that predictions will really have: what is asked, and what the network does.

They travel with the predictions, and runs are compared only where they are the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.catalog.loader import ModelEntry
from orchestrator.catalog.spec import SettingValue
from orchestrator.errors import UsageError


def score_floor(entry: ModelEntry, settings: Mapping[str, SettingValue], asked: float | None) -> float | None:
    """The floor, the model's default unless `asked`. Raises UsageError for one the network does not go down to."""
    own = _own_limit(entry, "score_threshold", settings)
    wanted = entry.spec.defaults.score_threshold if asked is None else asked
    if own is None:
        return wanted
    if asked is not None and asked < own:
        raise UsageError(
            f"--score-threshold {asked:g}: {entry.name} gives nothing that scores less than {own:g}",
            hint=_other_limit(entry, "score_threshold", asked),
        )
    return max(own, wanted or 0.0)


def most_detections(entry: ModelEntry, settings: Mapping[str, SettingValue], asked: int | None) -> int | None:
    """The most instances of an image, the default unless `asked`. Raises UsageError for more than the network gives."""
    own = _own_limit(entry, "max_detections", settings)
    wanted = asked or entry.spec.defaults.max_detections
    if own is None:
        return wanted
    if asked is not None and asked > own:
        raise UsageError(
            f"--max-detections {asked}: {entry.name} gives at most {own:g} instances of an image",
            hint=_other_limit(entry, "max_detections", asked),
        )
    return min(int(own), wanted or int(own))


def _own_limit(entry: ModelEntry, name: str, settings: Mapping[str, SettingValue]) -> float | None:
    limit = getattr(entry.spec.limits, name)
    value = settings[limit] if isinstance(limit, str) else limit
    return None if value is None else float(value)


def _other_limit(entry: ModelEntry, name: str, value: float) -> str | None:
    """How a limit of the network's own is changed, if it is a setting."""
    limit = getattr(entry.spec.limits, name)
    return f"--set {limit}={value:g}" if isinstance(limit, str) else None
