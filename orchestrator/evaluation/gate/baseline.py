"""Baselines: a run's figures as JSON, with the settings that a comparable run must share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.coco.attributes import DEFAULT_SCORE
from orchestrator.evaluation.coco.engines import AUTO
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.coco.ground_truth import Iou
from orchestrator.evaluation.coco.results import Evaluation, choose_figures
from orchestrator.evaluation.gate.gate import Measurement
from orchestrator.evaluation.gate.rules import FigureChange, Findings
from orchestrator.evaluation.protocols import DEFAULT, get_coco_protocol
from orchestrator.evaluation.runs import find_predictions
from orchestrator.paths import RunPaths
from orchestrator.predictions import STATUS_FAILED, Predictions
from orchestrator.system import __version__, sha256_of, write_json

FORMAT = "orch-baseline/1"
ATTRIBUTE_SCORE = "attribute score"
DIGEST = 16  # hexadecimal digits: enough to tell files apart, a quarter of the file's size
SHOWN_NAMES = 3


@dataclass(frozen=True)
class Baseline:
    """Figures in [0, 1], None where nothing is annotated, and the settings they depend on.

    `settings` have the names of `collect_settings`; `categories` has the AP of each category. `images` has the first
    DIGEST digits of the SHA-256 of each image file, where the predictions record it. `warnings` are of this evaluation
    and not stored.
    """

    model: str
    variant: str
    settings: Mapping[str, Any]
    figures: Mapping[str, float | None]
    categories: Mapping[str, float | None]
    images: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=(), compare=False)


def make_baseline(
    source: Path,
    annotations: Path,
    iou: Iou | None = None,
    categories: Sequence[str | int] = (),
    engine: str = AUTO,
    attribute_score: float | None = None,
    strict: bool = False,
    protocol: str = DEFAULT,
) -> Baseline:
    """Evaluate a run or a predictions file. Raises UsageError, PredictionsError."""
    predictions = Predictions.load(find_predictions(source))
    evaluation = evaluate(
        predictions,
        annotations,
        iou,
        categories,
        engine=engine,
        attribute_score=attribute_score,
        strict=strict,
        protocol=get_coco_protocol(protocol),
    )
    return to_baseline(predictions, evaluation, annotations)


def to_baseline(predictions: Predictions, evaluation: Evaluation, annotations: Path) -> Baseline:
    """Return the baseline made from `evaluation`, which is of `predictions` on `annotations`."""
    return Baseline(
        model=str(predictions.meta.get("model", "?")),
        variant=str(predictions.meta.get("variant", "?")),
        settings=collect_settings(predictions, evaluation, sha256_of(annotations)),
        figures={name: figure(evaluation) for name, figure in choose_figures([evaluation]).items()},
        categories={category.name: category.ap for category in evaluation.per_category},
        images=_collect_digests(predictions),
        warnings=evaluation.warnings,
    )


def _collect_digests(predictions: Predictions) -> dict[str, str]:
    digests = predictions.image_sha256
    if digests is None:
        return {}
    pairs = zip(predictions.files, digests, strict=True)
    return {file: digest.tobytes().hex()[:DIGEST] for file, digest in pairs if digest.any()}


def collect_settings(predictions: Predictions, evaluation: Evaluation, annotations: str) -> dict[str, Any]:
    """Return what must be equal for figures to be comparable; lists as their length and digest."""
    meta = predictions.meta
    taxonomy = sorted((int(entry["id"]), str(entry["name"])) for entry in meta.get("categories", []))
    return {
        "annotations": annotations,
        "protocol": evaluation.protocol,
        "iou": evaluation.iou,
        "evaluated categories": [category.id for category in evaluation.per_category],
        "image list": _digest(sorted(predictions.files)),
        "taxonomy": {"name": meta.get("taxonomy"), **_digest(taxonomy)},
        "score floor": meta.get("score_threshold") or 0.0,
        "max detections": meta.get("max_detections"),
        "exif": meta.get("exif"),
        **_collect_rules(evaluation),
    }


def _collect_rules(evaluation: Evaluation) -> dict[str, Any]:
    """Return what differs from the default rules, which baselines do not name."""
    rules: dict[str, Any] = {} if evaluation.federated is None else {"rules": "lvis"}
    if evaluation.attributes is not None and evaluation.attributes.score != DEFAULT_SCORE:
        rules[ATTRIBUTE_SCORE] = evaluation.attributes.score
    return rules


def _digest(values: Sequence[Any]) -> dict[str, Any]:
    text = json.dumps(values, separators=(",", ":"))
    return {"count": len(values), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def compare_figures(baseline: Baseline, now: Baseline) -> tuple[FigureChange, ...]:
    """Compare every figure. Raises PredictionsError when the two are not comparable."""
    _refuse_differences(baseline, {**dict.fromkeys(baseline.settings), **now.settings})
    _refuse_other_images(baseline, now)
    names = {**now.figures, **baseline.figures}
    return tuple(FigureChange(name, baseline.figures.get(name), now.figures.get(name)) for name in names)


def compare_categories(baseline: Baseline, now: Baseline) -> tuple[FigureChange, ...]:
    return tuple(FigureChange(name, baseline.categories.get(name), value) for name, value in now.categories.items())


def check_annotations(baseline: Baseline, annotations: Path) -> None:
    """Check before a run that the annotations are the baseline's. Raises PredictionsError."""
    _refuse_differences(baseline, {"annotations": sha256_of(annotations)})


def _refuse_differences(baseline: Baseline, settings: Mapping[str, Any]) -> None:
    differing = [name for name in settings if baseline.settings.get(name) != settings[name]]
    if not differing:
        return
    lines = [
        f"{name}: the baseline has {_describe(baseline.settings.get(name))}, the run {_describe(settings[name])}"
        for name in differing
    ]
    raise PredictionsError(
        f"the run is not comparable with the baseline: they differ in {', '.join(differing)}",
        why="\n".join(lines),
        hint="run with the baseline's settings, or store a new one: orch eval RUN -a COCO.json --save-baseline FILE",
    )


def _refuse_other_images(baseline: Baseline, now: Baseline) -> None:
    """Raise PredictionsError when images of one name have other bytes; images without a digest agree."""
    differing = [file for file, digest in now.images.items() if baseline.images.get(file, digest) != digest]
    if differing:
        names = ", ".join(differing[:SHOWN_NAMES]) + (", …" if len(differing) > SHOWN_NAMES else "")
        raise PredictionsError(
            "the run is not comparable with the baseline: they differ in image content",
            why=f"{len(differing)} of {len(now.images)} image files have other bytes than the baseline's: {names}",
            hint="run on the baseline's images, or store a new one: orch eval RUN -a COCO.json --save-baseline FILE",
        )


def note_unknown_images(baseline: Baseline, now: Baseline) -> list[str]:
    """Return a note if it is not known of some images whether their files are those of the baseline."""
    unknown = sum(file not in baseline.images for file in now.images)
    if now.images and not unknown:
        return []
    who = "the baseline has no digests of them" if now.images else "the run's predictions have no digests of them"
    return [f"whether {unknown or 'all'} image files are those of the baseline is not known: {who}"]


def _describe(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        name = f"{value['name']!r}, " if "name" in value else ""
        return f"{name}{value.get('count')} (sha256 {str(value['sha256'])[:12]}…)"
    if isinstance(value, str) and len(value) == 64:
        return f"sha256 {value[:12]}…"
    return "none" if value is None else str(value)


def write_baseline(path: Path, baseline: Baseline) -> None:
    document = {"format": FORMAT, "orch_version": __version__, **asdict(baseline)}
    del document["warnings"]
    write_json(path, document)


def read_baseline(path: Path) -> Baseline:
    """Read a stored baseline. Raises UsageError when the file is not one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"orch eval RUN --annotations COCO.json --save-baseline {path}"
        raise UsageError(f"cannot read the baseline {path}", why=error.strerror or str(error), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a baseline", why=f"it is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        form = document.get("format") if isinstance(document, dict) else None
        raise UsageError(f"{path} is not a baseline", why=f"its format is {form!r}, not {FORMAT!r}")
    if not _is_sound(document):
        why = "its settings, figures or categories are missing or of the wrong type"
        raise UsageError(f"{path} is not a baseline", why=why)
    model, variant = (str(document.get(name, "?")) for name in ("model", "variant"))
    images = document.get("images", {})  # older files have none
    # Baselines of earlier versions name no protocol; their figures are COCO's.
    settings = {"protocol": DEFAULT, **document["settings"]}
    return Baseline(model, variant, settings, document["figures"], document["categories"], images)


def _is_sound(document: Mapping[str, Any]) -> bool:
    """Say whether all fields that comparing needs are there and of the right type."""
    settings = document.get("settings")
    if not isinstance(settings, dict) or settings.get("iou") not in ("segm", "bbox"):
        return False
    evaluated = isinstance(settings.get("evaluated categories"), list) and isinstance(document.get("images", {}), dict)
    return evaluated and all(_are_figures(document.get(name)) for name in ("figures", "categories"))


def _are_figures(values: object) -> bool:
    """Say whether a value is a mapping of names to figures, as `Baseline.figures`."""
    return isinstance(values, dict) and all(value is None or type(value) in (int, float) for value in values.values())


def evaluate_with_baseline(
    source: Path,
    baseline: Path,
    annotations: Path,
    iou: Iou | None = None,
    categories: Sequence[str | int] = (),
    engine: str = AUTO,
    attribute_score: float | None = None,
    strict: bool = False,
    protocol: str | None = None,
) -> tuple[Baseline, Baseline, Findings]:
    """Return a baseline, the run's own figures as one, and what rules judge.

    A stored baseline determines what is evaluated, unless `iou`, `categories`, `attribute_score` and `protocol` say
    otherwise. Raises UsageError, PredictionsError.
    """
    predictions = Predictions.load(find_predictions(source))
    if is_stored(baseline):
        then = read_baseline(baseline)
        check_annotations(then, annotations)
        iou = iou if iou is not None else then.settings["iou"]
        protocol = protocol or str(then.settings["protocol"])
        if protocol == then.settings["protocol"]:
            categories = categories or _own_categories(then)
        attribute_score = attribute_score if attribute_score is not None else then.settings.get(ATTRIBUTE_SCORE)
    else:
        protocol = protocol or DEFAULT
        then = make_baseline(baseline, annotations, iou, categories, engine, attribute_score, strict, protocol)
    now = make_baseline(source, annotations, iou, categories, engine, attribute_score, strict, protocol)
    failed = int((predictions.status == STATUS_FAILED).sum())
    return then, now, Findings(len(predictions), failed, now.figures.get("AP"), then.figures.get("AP"))


def _own_categories(baseline: Baseline) -> Sequence[str | int]:
    """Return the categories that a stored baseline chose; none where its protocol has its own."""
    chosen: Sequence[str | int] = baseline.settings["evaluated categories"]
    return () if get_coco_protocol(str(baseline.settings["protocol"])).categories else chosen


def is_stored(path: Path) -> bool:
    """Say whether a path names a stored baseline rather than a run or a predictions file."""
    return not path.is_dir() and path.suffix != ".npz"


class Baselines:
    """Annotations and each model's baseline, if one was given: what a gate measures finished runs by."""

    def __init__(self, models: Sequence[str], annotations: Path, baseline: Path | None) -> None:
        """`baseline` is a stored one, a run, or a folder of MODEL.json. Raises UsageError, PredictionsError."""
        self._annotations = annotations
        self._baselines = {model: self._open(model, baseline) for model in models} if baseline is not None else {}

    def _open(self, model: str, path: Path) -> Baseline:
        run = RunPaths(path)
        if path.is_dir() and not (run.run_json.exists() or run.predictions.exists()):
            path = path / f"{model}.json"
        if not is_stored(path):
            return make_baseline(path, self._annotations)
        stored = read_baseline(path)
        check_annotations(stored, self._annotations)
        return stored

    def measure(self, model: str, predictions: Path) -> Measurement:
        """Evaluate a finished run's predictions. Raises PredictionsError when they are not comparable."""
        baseline = self._baselines.get(model)
        if baseline is None:
            now = make_baseline(predictions, self._annotations)
            return Measurement(now.figures, warnings=now.warnings)
        iou, protocol = cast(Iou, baseline.settings["iou"]), str(baseline.settings["protocol"])
        now = make_baseline(
            predictions,
            self._annotations,
            iou,
            _own_categories(baseline),
            attribute_score=baseline.settings.get(ATTRIBUTE_SCORE),
            protocol=protocol,
        )
        changes = compare_figures(baseline, now)
        warnings = (*now.warnings, *note_unknown_images(baseline, now))
        return Measurement(now.figures, changes, baseline.figures.get("AP"), warnings)
