"""The page on runs with true masks: collect its content as plain values, for the template of all pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from orchestrator.evaluation import ComparedMasks, MaskComparison
from orchestrator.predictions import STATUS_FAILED
from orchestrator.reports.html.charts import draw_f1
from orchestrator.reports.html.gallery import Gallery, PageLimits
from orchestrator.reports.html.page import fill_template, list_numbers
from orchestrator.reports.mask_tables import make_mask_caption, make_mask_tables
from orchestrator.system import count_of


@dataclass(frozen=True)
class MaskPage:
    """Everything that the page is made from."""

    comparison: MaskComparison
    compared: ComparedMasks
    gallery: Gallery
    limits: PageLimits
    title: str | None
    version: str


def render_masks(page: MaskPage) -> str:
    """Return the whole page as HTML, with style, script, pictures and data inside."""
    comparison = page.comparison
    labels = [run.label for run in comparison.runs]
    data = {
        "truth": True,
        "runs": labels,
        "names": ["image", "truth", *labels],
        "categories": {},
        "minScore": 0,
        "images": page.gallery.images,
    }
    order = ", in the order of the legend" if len(labels) > 1 else ""
    return fill_template(
        comparison.runs,
        page.title,
        data,
        version=page.version,
        annotations=None,  # the notes say which true masks
        facts=_list_facts(comparison),
        tables=make_mask_tables(comparison),
        notes=[*comparison.notes, *make_mask_caption(comparison)],
        curves=_draw_curves(page, labels),
        curves_title="F1 over threshold",
        curves_words=f"Mean F1 of pixels over the threshold from which they count; the number is the best F1{order}.",
        histograms=[],
        categories={},
        gallery={"words": _describe_gallery(page)},
        has_truth=False,
        of_masks=True,
    )


def _list_facts(comparison: MaskComparison) -> list[tuple[str, str]]:
    """Return the numbers at the top of the page."""
    first = comparison.evaluations[0]
    known = [one.pixel_fixed.f1 for one in comparison.evaluations if one.pixel_fixed is not None]
    failed = [int((run.predictions.status == STATUS_FAILED).sum()) for run in comparison.runs]
    return [
        ("runs", str(len(comparison.runs))),
        ("images", f"{first.images:,}"),
        ("manipulated", f"{first.manipulated:,}"),
        ("best pixel F1 at 0.5", f"{max(known):.3f}" if known else "–"),
        ("failed", list_numbers(failed)),
    ]


def _draw_curves(page: MaskPage, labels: list[str]) -> list[dict[str, Any]]:
    curves = [means.average_f1() for means in page.compared.means]
    if all(np.isnan(curve).all() for curve in curves):
        return []
    best = (one.pixel_best for one in page.comparison.evaluations)
    figures = " / ".join("–" if figure is None else f"{figure.f1:.2f}" for figure in best)
    return [{"name": "all images", "chart": Markup(draw_f1(curves, labels, "all images")), "figures": figures}]


def _describe_gallery(page: MaskPage) -> str:
    shown, total = len(page.gallery.images), len(page.comparison.runs[0].predictions)
    words = f"{shown:,} of {total:,} images" if shown < total else f"All {total:,} images"
    words += (
        ": the image, its true mask (white: manipulated), and each run's probabilities from dark (0) to bright (1). "
        "The error of a run is 1 - F1 at 0.5, in genuine images the share of pixels called manipulated. Disagreement: "
    )
    words += "its error." if len(page.comparison.runs) == 1 else "the largest difference of the runs' errors."
    if shown < total:
        words += f" Of at most {page.limits.images:,}, half have the most disagreement, half are spread evenly."
    if page.gallery.is_full:
        words += f" Those with the least disagreement are missing: the page is limited to {page.limits.megabytes:g} MB."
    if page.gallery.unreadable:
        words += f" {count_of(page.gallery.unreadable, 'image')} could not be shown."
    return words
