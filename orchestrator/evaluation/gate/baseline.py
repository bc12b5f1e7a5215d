"""Baselines: a run's figures in a small JSON file, with every setting that a later run must share to be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.coco.engines import AUTO
from orchestrator.evaluation.coco.evaluate import Evaluation, evaluate
from orchestrator.evaluation.coco.ground_truth import Iou
from orchestrator.evaluation.gate.rules import Findings
from orchestrator.evaluation.runs import predictions_file
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_FAILED
from orchestrator.system.files import sha256_of, write_json

FORMAT = "orch-baseline/1"


@dataclass(frozen=True)
class Baseline:
    """Figures in [0, 1], None where nothing is annotated, and the settings they depend on.

    `settings` are compared one by one, by their names in `settings_of`; `categories` has the AP of each.
    """

    model: str
    variant: str
    settings: Mapping[str, Any]
    figures: Mapping[str, float | None]
    categories: Mapping[str, float | None]


@dataclass(frozen=True)
class Change:
    """A figure then and now; `difference` is None where either is."""

    name: str
    baseline: float | None
    now: float | None

    @property
    def difference(self) -> float | None:
        """Now less then."""
        return None if self.baseline is None or self.now is None else self.now - self.baseline

    def as_json(self) -> dict[str, float | None]:
        """For --json."""
        return {"baseline": self.baseline, "now": self.now, "difference": self.difference}


def make_baseline(
    source: Path, annotations: Path, iou: Iou = "segm", categories: Sequence[str | int] = (), engine: str = AUTO
) -> Baseline:
    """Evaluate a run or a predictions file. Raises UsageError, PredictionsError."""
    predictions = Predictions.load(predictions_file(source))
    return baseline_of(predictions, evaluate(predictions, annotations, iou, categories, engine=engine), annotations)


def baseline_of(predictions: Predictions, evaluation: Evaluation, annotations: Path) -> Baseline:
    """What `evaluation`, of `predictions` on `annotations`, is to be remembered by."""
    from orchestrator.reports.tables import FIGURES

    return Baseline(
        model=str(predictions.meta.get("model", "?")),
        variant=str(predictions.meta.get("variant", "?")),
        settings=settings_of(predictions, evaluation, sha256_of(annotations)),
        figures={name: figure(evaluation) for name, figure in FIGURES.items()},
        categories={one.name: one.ap for one in evaluation.per_category},
    )


def settings_of(predictions: Predictions, evaluation: Evaluation, annotations: str) -> dict[str, Any]:
    """All that must be equal for figures to be comparable; lists as their length and digest."""
    meta = predictions.meta
    taxonomy = sorted((int(one["id"]), str(one["name"])) for one in meta.get("categories", []))
    return {
        "annotations": annotations,
        "iou": evaluation.iou,
        "evaluated categories": [one.id for one in evaluation.per_category],
        "image list": _digest(sorted(predictions.files)),
        "taxonomy": {"name": meta.get("taxonomy"), **_digest(taxonomy)},
        "score floor": meta.get("score_threshold") or 0.0,
        "max detections": meta.get("max_detections"),
        "exif": meta.get("exif"),
    }


def _digest(values: Sequence[Any]) -> dict[str, Any]:
    text = json.dumps(values, separators=(",", ":"))
    return {"count": len(values), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def changes(baseline: Baseline, now: Baseline) -> tuple[Change, ...]:
    """Every figure then and now. Raises PredictionsError where the two are not comparable."""
    _refuse(baseline, now.settings)
    return tuple(Change(name, baseline.figures.get(name), value) for name, value in now.figures.items())


def check_annotations(baseline: Baseline, annotations: Path) -> None:
    """What can be known of comparability before a run. Raises PredictionsError."""
    _refuse(baseline, {"annotations": sha256_of(annotations)})


def _refuse(baseline: Baseline, settings: Mapping[str, Any]) -> None:
    differing = [name for name in settings if baseline.settings.get(name) != settings[name]]
    if not differing:
        return
    lines = [
        f"{name}: the baseline has {_shown(baseline.settings.get(name))}, the run {_shown(settings[name])}"
        for name in differing
    ]
    raise PredictionsError(
        f"the run is not comparable with the baseline: they differ in {', '.join(differing)}",
        why="\n".join(lines),
        hint="run as the baseline was run, or store a new one: orch eval RUN -a COCO.json --save-baseline FILE",
    )


def category_changes(baseline: Baseline, now: Baseline) -> tuple[Change, ...]:
    """AP of every category then and now."""
    return tuple(Change(name, baseline.categories.get(name), value) for name, value in now.categories.items())


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        name = f"{value['name']!r}, " if "name" in value else ""
        return f"{name}{value.get('count')} (sha256 {str(value['sha256'])[:12]}…)"
    if isinstance(value, str) and len(value) == 64:
        return f"those of sha256 {value[:12]}…"
    return "none" if value is None else str(value)


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write it where a later run finds it."""
    write_json(path, {"format": FORMAT, "orch_version": __version__, **asdict(baseline)})


def read_baseline(path: Path) -> Baseline:
    """Raises UsageError for a file that is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read the baseline {path}",
            why=error.strerror or str(error),
            hint=f"orch eval RUN --annotations COCO.json --save-baseline {path}",
        ) from error
    except ValueError as error:
        raise UsageError(f"{path} is no baseline", why=f"it is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise UsageError(f"{path} is no baseline", why=f"its format is {found!r}, not {FORMAT!r}")
    if not _is_sound(document):
        why = "its settings, figures or categories are not what they should be"
        raise UsageError(f"{path} is no baseline", why=why)
    model, variant = (str(document.get(name, "?")) for name in ("model", "variant"))
    return Baseline(model, variant, document["settings"], document["figures"], document["categories"])


def _is_sound(document: Mapping[str, Any]) -> bool:
    """Whether everything is there that is relied on."""
    settings = document.get("settings")
    if not isinstance(settings, dict) or settings.get("iou") not in ("segm", "bbox"):
        return False
    evaluated = isinstance(settings.get("evaluated categories"), list)
    return evaluated and all(_are_figures(document.get(name)) for name in ("figures", "categories"))


def _are_figures(values: object) -> bool:
    """Whether it is what `Baseline.figures` is."""
    return isinstance(values, dict) and all(value is None or type(value) in (int, float) for value in values.values())


def hold_against(
    source: Path,
    baseline: Path,
    annotations: Path,
    iou: Iou = "segm",
    categories: Sequence[str | int] = (),
    engine: str = AUTO,
) -> tuple[Baseline, Baseline, Findings]:
    """A baseline, the run's figures, and how many of its images failed.

    A stored baseline says itself what was evaluated, unless `iou` and `categories` ask for something else. Raises
    UsageError, PredictionsError.
    """
    predictions = Predictions.load(predictions_file(source))
    if is_stored(baseline):
        then = read_baseline(baseline)
        check_annotations(then, annotations)
        iou = iou if iou != "segm" else then.settings["iou"]
        categories = categories or then.settings["evaluated categories"]
    else:
        then = make_baseline(baseline, annotations, iou, categories, engine)
    now = baseline_of(predictions, evaluate(predictions, annotations, iou, categories, engine=engine), annotations)
    failed = int((predictions.status == STATUS_FAILED).sum())
    return then, now, Findings(len(predictions), failed)


def is_stored(path: Path) -> bool:
    """Whether a path means a stored baseline rather than a run or a predictions file."""
    return not path.is_dir() and path.suffix != ".npz"
