"""The request of a run: its options, completed with the model's defaults. It identifies the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.catalog import ModelEntry, SettingValue
from orchestrator.errors import UsageError
from orchestrator.inputs import recorded_source
from orchestrator.plan.options import RunOptions

AUTO = "auto"  # variant and device of a request until a node of the cluster has chosen them
MAX_PIXELS = 250_000_000  # larger images fail instead of being decoded


@dataclass(frozen=True)
class Request:
    """What identifies a run: its folder resumes the same request and refuses any other."""

    model: str
    images: tuple[str, ...]
    image_root: str | None
    runtime: str
    variant: str
    device: str  # "cpu" or "cuda". Which GPUs are used changes no result; run.json records them beside the request.
    exif: str
    score_threshold: float | None
    max_detections: int | None
    batch_size: int
    settings: Mapping[str, Any]
    shard_size: int | None

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    def for_worker(self) -> dict[str, Any]:
        """Return what job.json holds of the request, in that order, beside the model's own settings."""
        return {
            "device": self.device,
            "exif": self.exif,
            "score_threshold": self.score_threshold,
            "max_detections": self.max_detections,
            "max_pixels": MAX_PIXELS,
            "batch_size": self.batch_size,
        }

    def short_digest(self, runtime: str) -> str:
        """Return eight digits for the default name of the run directory; `runtime` as asked for, so "auto" is one."""
        document = {**self.as_json(), "runtime": runtime}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]


def make_request(entry: ModelEntry, options: RunOptions, runtime: str, variant: str, device: str) -> Request:
    """Return the options completed with the model's defaults. Raises UsageError."""
    defaults = entry.spec.defaults
    settings = entry.settings(options.settings)
    return Request(
        model=entry.name,
        images=tuple(map(recorded_source, options.images)),
        image_root=None if options.image_root is None else str(options.image_root.absolute()),
        runtime=runtime,
        variant=variant,
        device=device,
        exif=options.exif,
        score_threshold=score_floor(entry, settings, options.score_threshold),
        max_detections=most_detections(entry, settings, options.max_detections),
        batch_size=options.batch_size or defaults.batch_size,
        settings=settings,
        shard_size=options.shard_size,
    )


def score_floor(entry: ModelEntry, settings: Mapping[str, SettingValue], asked: float | None) -> float | None:
    """Return the lowest score to keep, the model's default unless `asked`.

    Raises UsageError for one that is below the network's own limit.
    """
    own = _network_limit(entry, "score_threshold", settings)
    wanted = entry.spec.defaults.score_threshold if asked is None else asked
    if own is None:
        return wanted
    if asked is not None and asked < own:
        raise UsageError(
            f"--score-threshold {asked:g}: {entry.name} returns nothing that scores less than {own:g}",
            hint=_suggest_setting(entry, "score_threshold", asked),
        )
    return max(own, wanted or 0.0)


def most_detections(entry: ModelEntry, settings: Mapping[str, SettingValue], asked: int | None) -> int | None:
    """Return the most instances of an image, the model's default unless `asked`.

    Raises UsageError for more than the network can return.
    """
    own = _network_limit(entry, "max_detections", settings)
    wanted = asked or entry.spec.defaults.max_detections
    if own is None:
        return wanted
    if asked is not None and asked > own:
        raise UsageError(
            f"--max-detections {asked}: {entry.name} returns at most {own:g} instances of an image",
            hint=_suggest_setting(entry, "max_detections", asked),
        )
    return min(int(own), wanted or int(own))


def _network_limit(entry: ModelEntry, name: str, settings: Mapping[str, SettingValue]) -> float | None:
    limit = getattr(entry.spec.limits, name)
    value = settings[limit] if isinstance(limit, str) else limit
    return None if value is None else float(value)


def _suggest_setting(entry: ModelEntry, name: str, value: float) -> str | None:
    """Return the option that changes the network's own limit, if it is a setting."""
    limit = getattr(entry.spec.limits, name)
    return f"--set {limit}={value:g}" if isinstance(limit, str) else None
