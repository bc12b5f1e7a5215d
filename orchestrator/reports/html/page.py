"""The page: collect its content as plain values, and render the template with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from orchestrator.evaluation import Comparison, JudgedRun, OpenedRun
from orchestrator.predictions import STATUS_FAILED
from orchestrator.reports.draw import choose_colour
from orchestrator.reports.html.charts import draw_histogram, draw_precision_recall
from orchestrator.reports.html.gallery import Gallery, PageLimits
from orchestrator.reports.tables import make_caption, make_tables
from orchestrator.system import count_of

SHOWN_FAILURES = 500
SCRIPTS = ("panels.js", "report.js")


@dataclass(frozen=True)
class Page:
    """Everything that the page is made from."""

    comparison: Comparison
    judged: Sequence[JudgedRun]
    gallery: Gallery
    limits: PageLimits
    annotations: Path | None
    title: str | None
    version: str


def render(page: Page) -> str:
    """Return the whole page as HTML, with style, script, pictures and data inside."""
    runs = page.comparison.runs
    figures = ", in the order of the legend" if len(runs) > 1 else ""
    return fill_template(
        runs,
        page.title,
        _collect_data(page),
        version=page.version,
        annotations=page.annotations,
        facts=_list_facts(page),
        tables=make_tables(page.comparison, per_category=True),
        notes=[*page.comparison.notes, *make_caption(page.comparison)],
        curves=_draw_curves(page),
        curves_title="Precision and recall",
        curves_words=f"Precision over recall by category, at IoU 0.5; the number is AP50{figures}.",
        histograms=[
            (run.label, Markup(draw_histogram(run.predictions.scores, number, run.label)))
            for number, run in enumerate(runs)
        ],
        categories=_list_categories(page),
        gallery=_describe_gallery(page),
        has_truth=page.annotations is not None,
        of_masks=False,
    )


def fill_template(runs: Sequence[OpenedRun], title: str | None, data: dict[str, Any], **content: Any) -> str:
    """Return the page as HTML: `data` for its script, and `content`, the template's other variables."""
    templates = files("orchestrator.reports.html") / "templates"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((templates / "report.html").read_text(encoding="utf-8"))
    return template.render(
        title=title or " · ".join(dict.fromkeys(run.model for run in runs)),
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=Markup("".join((templates / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        data=_encode_for_script(data),
        runs=[_describe_run(run, number) for number, run in enumerate(runs)],
        failures=_list_failures(runs),
        **content,
    )


def _encode_for_script(value: Any) -> Markup:
    """Return JSON that cannot end the script element that holds it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _collect_data(page: Page) -> dict[str, Any]:
    colours = {
        number: {"name": name, "colour": f"rgb{choose_colour(number)}"}
        for number, name in _list_categories(page).items()
    }
    return {
        "truth": page.annotations is not None,
        "runs": [run.label for run in page.comparison.runs],
        "categories": colours,
        "minScore": page.limits.min_score,
        "images": page.gallery.images,
    }


def _list_categories(page: Page) -> dict[int, str]:
    known: dict[int, str] = {}
    for run in page.comparison.runs:
        known |= {int(entry["id"]): str(entry["name"]) for entry in run.predictions.meta.get("categories", [])}
    for judged in page.judged:
        known |= {category.id: category.name for category in judged.evaluation.per_category}
    return dict(sorted(known.items()))


def _describe_run(run: OpenedRun, number: int) -> dict[str, Any]:
    predictions, meta = run.predictions, run.predictions.meta
    rate = run.images_per_second
    gpus = [str(gpu.get("name", gpu)) if isinstance(gpu, dict) else str(gpu) for gpu in run.run.get("gpus", [])]
    seconds = run.summary.get("seconds", {})
    versions = run.summary.get("versions", {})
    return {
        "number": number % 6,
        "label": run.label,
        "model": run.model,
        "variant": run.variant,
        "images": len(predictions),
        "failed": int((predictions.status == STATUS_FAILED).sum()),
        "instances": len(predictions.scores),
        "empty": int(((np.diff(predictions.offsets) == 0) & (predictions.status != STATUS_FAILED)).sum()),
        "device": meta.get("device"),
        "gpus": ", ".join(gpus),
        "runtime": meta.get("runtime"),
        "rate": "–" if rate is None else f"{rate:.1f}",
        "seconds": "–" if "dispatch" not in seconds else f"{seconds['dispatch']:.1f}",
        "batch": meta.get("batch_size"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "floor": meta.get("score_threshold"),
        "most": meta.get("max_detections"),
        "provenance": _list_provenance(run),
    }


def _list_provenance(run: OpenedRun) -> list[tuple[str, str]]:
    """Return what the predictions and the run record of their origin, by name."""
    meta = {**run.run.get("resolved", {}), **run.predictions.meta}
    lines = {"predictions": str(run.predictions.path)}
    for key in sorted(meta):
        if key in ("categories", "attribute_names"):
            names = (entry["name"] if isinstance(entry, dict) else entry for entry in meta[key] or [])
            lines[key] = ", ".join(map(str, names))
        else:
            lines[key] = _to_text(meta[key])
    of_plan = ("plan", "shards", "shard_size", "why_runtime", "why_variant", "gpus")
    lines |= {key: _to_text(run.run[key]) for key in of_plan if key in run.run}
    of_summary = ("versions", "notices", "lost_workers")
    lines |= {key: json.dumps(run.summary[key], ensure_ascii=False) for key in of_summary if run.summary.get(key)}
    request = run.run.get("request", {})
    if request.get("images"):
        lines["images given"] = ", ".join(map(str, request["images"]))
    return [(key.replace("_", " "), value) for key, value in lines.items()]


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _list_facts(page: Page) -> list[tuple[str, str]]:
    """Return the numbers at the top of the page."""
    runs = page.comparison.runs
    facts = [("runs", str(len(runs))), ("images", f"{len(runs[0].predictions):,}")]
    facts.append(("instances", list_numbers([len(run.predictions.scores) for run in runs])))
    if page.comparison.evaluations:
        best = max(page.comparison.evaluations, key=lambda evaluation: evaluation.ap or 0)
        name = "best mask AP" if best.iou == "segm" else "best box AP"
        facts.append((name, "–" if best.ap is None else f"{best.ap:.3f}"))
    elif page.comparison.agreements:
        shares = [pair.agreement[0] for pair in page.comparison.agreements if pair.agreement[0] is not None]
        facts.append(("agreement", f"{sum(shares) / len(shares):.3f}" if shares else "–"))
    failed = [int((run.predictions.status == STATUS_FAILED).sum()) for run in runs]
    facts.append(("failed", list_numbers(failed)))
    return facts


def list_numbers(numbers: Sequence[int]) -> str:
    """Return one number per run in their order, of many runs the lowest and highest; a sum would be no run's."""
    if len(set(numbers)) == 1:
        return f"{numbers[0]:,}" + (" each" if len(numbers) > 1 and numbers[0] else "")
    texts = [f"{number:,}" for number in numbers]
    return " / ".join(texts) if len(texts) <= 3 else f"{min(numbers):,}–{max(numbers):,}"


def _draw_curves(page: Page) -> list[dict[str, Any]]:
    """Return a chart of precision over recall at IoU 0.5 for each annotated category."""
    if not page.judged:
        return []
    labels = [run.label for run in page.comparison.runs]
    charts = []
    for index, category in enumerate(page.judged[0].evaluation.per_category):
        curves = [judged.curves.precision[0, :, index, 0, -1] for judged in page.judged]
        if category.ap is not None:
            figures = [judged.evaluation.per_category[index].ap50 for judged in page.judged]
            text = " / ".join("–" if figure is None else f"{figure:.2f}" for figure in figures)
            chart = Markup(draw_precision_recall(curves, labels, category.name))
            charts.append({"name": category.name, "chart": chart, "figures": text})
    return charts


def _describe_gallery(page: Page) -> dict[str, Any]:
    shown, total = len(page.gallery.images), len(page.comparison.runs[0].predictions)
    limits = page.limits
    if shown == total:
        words = f"All {total:,} images." if total != 1 else "The only image."
    else:
        words = (
            f"{shown:,} of {total:,} images: of at most {limits.images:,}, half are those with the most disagreement, "
            "half are spread evenly over the others."
        )
        if page.gallery.is_full:
            words += f" Those with the least disagreement are missing: the page is limited to {limits.megabytes:g} MB."
    words += f" Instances that score at least {limits.min_score:g}, the best {limits.instances} of each image."
    if page.gallery.unreadable:
        words += f" {count_of(page.gallery.unreadable, 'image')} could not be shown."
    return {"words": words, "shown": shown}


def _list_failures(runs: Sequence[OpenedRun]) -> list[dict[str, Any]]:
    """Return the images that failed, run by run, at most SHOWN_FAILURES of each."""
    failures = []
    for run in runs:
        failed = np.flatnonzero(run.predictions.status == STATUS_FAILED)
        if len(failed):
            shown = failed[:SHOWN_FAILURES].tolist()
            rows = [(run.predictions.files[image], str(run.predictions.error[image])) for image in shown]
            failures.append({"label": run.label, "count": len(failed), "rows": rows, "more": len(failed) - len(rows)})
    return failures
