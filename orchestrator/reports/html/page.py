"""The page's content as plain values, and the page made from them by the template."""

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

from orchestrator.evaluation.compare.compare import Comparison, Judged
from orchestrator.evaluation.runs import Source
from orchestrator.predictions.schema import STATUS_FAILED
from orchestrator.reports.draw import colour_of
from orchestrator.reports.html.charts import histogram, precision_recall
from orchestrator.reports.html.gallery import Gallery, Limits
from orchestrator.reports.tables import Table, caption, tables

SHOWN_FAILURES = 500


@dataclass(frozen=True)
class Page:
    """All that the page is made from."""

    comparison: Comparison
    judged: Sequence[Judged]
    gallery: Gallery
    limits: Limits
    annotations: Path | None
    title: str | None
    version: str


def render(page: Page) -> str:
    """The whole page: style, script, pictures and data inside."""
    sources = page.comparison.sources
    templates = files("orchestrator.reports.html") / "templates"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((templates / "report.html").read_text(encoding="utf-8"))
    return template.render(
        title=page.title or _title(sources),
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=Markup((templates / "report.js").read_text(encoding="utf-8")),
        data=_script_json(_data(page)),
        version=page.version,
        runs=[_run(source, number) for number, source in enumerate(sources)],
        annotations=page.annotations,
        facts=_facts(page),
        tables=[_table(table) for table in tables(page.comparison, per_category=True)],
        notes=[*page.comparison.notes, *caption(page.comparison)],
        curves=_curves(page),
        histograms=[
            (source.label, Markup(histogram(source.predictions.scores, number, source.label)))
            for number, source in enumerate(sources)
        ],
        categories=_categories(page),
        gallery=_gallery_words(page),
        has_truth=page.annotations is not None,
        failures=_failures(sources),
    )


def _title(sources: Sequence[Source]) -> str:
    """The models' names; runs of one model are told apart further down."""
    return " · ".join(dict.fromkeys(source.model for source in sources))


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _data(page: Page) -> dict[str, Any]:
    colours = {
        number: {"name": name, "colour": f"rgb{colour_of(number)}"} for number, name in _categories(page).items()
    }
    return {
        "truth": page.annotations is not None,
        "runs": [source.label for source in page.comparison.sources],
        "categories": colours,
        "minScore": page.limits.min_score,
        "images": page.gallery.images,
    }


def _categories(page: Page) -> dict[int, str]:
    known: dict[int, str] = {}
    for source in page.comparison.sources:
        known |= {int(one["id"]): str(one["name"]) for one in source.predictions.meta.get("categories", [])}
    for judged in page.judged:
        known |= {one.id: one.name for one in judged.evaluation.per_category}
    return dict(sorted(known.items()))


def _run(source: Source, number: int) -> dict[str, Any]:
    found, meta = source.predictions, source.predictions.meta
    rate = source.images_per_second
    gpus = ", ".join(
        str(gpu.get("name", gpu)) if isinstance(gpu, dict) else str(gpu) for gpu in source.run.get("gpus", [])
    )
    seconds = source.summary.get("seconds", {})
    versions = source.summary.get("versions", {})
    return {
        "number": number % 6,
        "label": source.label,
        "model": source.model,
        "variant": source.variant,
        "images": len(found),
        "failed": int((found.status == STATUS_FAILED).sum()),
        "instances": len(found.scores),
        "empty": int(((np.diff(found.offsets) == 0) & (found.status != STATUS_FAILED)).sum()),
        "device": meta.get("device"),
        "gpus": gpus,
        "runtime": meta.get("runtime"),
        "rate": "–" if rate is None else f"{rate:.1f}",
        "seconds": "–" if "dispatch" not in seconds else f"{seconds['dispatch']:.1f}",
        "batch": meta.get("batch_size"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "floor": meta.get("score_threshold"),
        "most": meta.get("max_detections"),
        "provenance": _provenance(source),
    }


def _provenance(source: Source) -> list[tuple[str, str]]:
    """Everything the predictions and the run say of their origin, one line each."""
    meta = {**source.run.get("resolved", {}), **source.predictions.meta}
    lines = {"predictions": str(source.predictions.path)}
    for key in sorted(meta):
        value = meta[key]
        if key in ("categories", "attribute_names"):
            lines[key] = ", ".join(str(one["name"]) if isinstance(one, dict) else str(one) for one in value or [])
        else:
            lines[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    for key in ("plan", "shards", "shard_size", "why_runtime", "why_variant", "gpus"):
        if key in source.run:
            value = source.run[key]
            lines[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    for key in ("versions", "notices", "lost_workers"):
        if source.summary.get(key):
            lines[key] = json.dumps(source.summary[key], ensure_ascii=False)
    request = source.run.get("request", {})
    if request.get("images"):
        lines["images given"] = ", ".join(map(str, request["images"]))
    return [(key.replace("_", " "), value) for key, value in lines.items()]


def _facts(page: Page) -> list[tuple[str, str]]:
    """The few numbers at the top."""
    sources = page.comparison.sources
    first = sources[0].predictions
    facts = [("runs", str(len(sources))), ("images", f"{len(first):,}")]
    facts.append(("instances", f"{sum(len(source.predictions.scores) for source in sources):,}"))
    if page.comparison.evaluations:
        best = max(page.comparison.evaluations, key=lambda one: one.ap or 0)
        facts.append(
            ("best mask AP" if best.iou == "segm" else "best box AP", "–" if best.ap is None else f"{best.ap:.3f}")
        )
    elif page.comparison.agreements:
        shares = [one.agreement[0] for one in page.comparison.agreements if one.agreement[0] is not None]
        facts.append(("agreement", f"{sum(shares) / len(shares):.3f}" if shares else "–"))
    failed = sum(int((source.predictions.status == STATUS_FAILED).sum()) for source in sources)
    facts.append(("failed", f"{failed:,}"))
    return facts


def _table(table: Table) -> dict[str, Any]:
    return {"title": table.title, "columns": table.columns, "rows": table.rows, "words": table.words}


def _curves(page: Page) -> list[dict[str, Any]]:
    """A chart of precision over recall at IoU 0.5 for each annotated category."""
    if not page.judged:
        return []
    labels = [source.label for source in page.comparison.sources]
    charts = []
    for place, category in enumerate(page.judged[0].evaluation.per_category):
        curves = [one.curves.precision[0, :, place, 0, -1] for one in page.judged]
        if category.ap is not None:
            figures = [one.evaluation.per_category[place].ap50 for one in page.judged]
            text = " / ".join("–" if figure is None else f"{figure:.2f}" for figure in figures)
            chart = Markup(precision_recall(curves, labels, category.name))
            charts.append({"name": category.name, "chart": chart, "figures": text})
    return charts


def _gallery_words(page: Page) -> dict[str, Any]:
    shown, total = len(page.gallery.images), len(page.comparison.sources[0].predictions)
    limits = page.limits
    if shown == total:
        words = f"All {total:,} images."
    else:
        words = (
            f"{shown:,} of {total:,} images: of at most {limits.images:,}, half are those with the most disagreement, "
            "half are spread evenly over the others."
        )
        if page.gallery.full:
            words += f" The page's budget of {limits.megabytes:g} MB left out those with the least disagreement."
    words += f" Instances that score at least {limits.min_score:g}, the best {limits.instances} of each image."
    if page.gallery.unreadable:
        words += f" {page.gallery.unreadable:,} images could not be shown themselves."
    return {"words": words, "shown": shown}


def _failures(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The images that failed, run by run, at most SHOWN_FAILURES of each."""
    found = []
    for source in sources:
        failed = np.flatnonzero(source.predictions.status == STATUS_FAILED)
        if len(failed):
            shown = failed[:SHOWN_FAILURES].tolist()
            rows = [(source.predictions.files[image], str(source.predictions.error[image])) for image in shown]
            found.append({"label": source.label, "count": len(failed), "rows": rows, "more": len(failed) - len(rows)})
    return found
