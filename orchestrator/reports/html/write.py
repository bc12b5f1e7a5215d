"""`write_report`: one self-contained HTML page on one or more runs, without anything to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.evaluation import (
    CompareOptions,
    MaskOptions,
    choose_iou,
    compare_opened,
    compare_opened_masks,
    make_comparable,
    open_runs,
)
from orchestrator.reports.html.gallery import (
    Material,
    PageLimits,
    build_gallery,
    choose_images,
    measure_disagreement,
)
from orchestrator.reports.html.mask_gallery import build_mask_gallery
from orchestrator.reports.html.mask_page import MaskPage, render_masks
from orchestrator.reports.html.page import Page, render
from orchestrator.reports.image_files import make_finder, require_image_root
from orchestrator.system import Display, __version__, require_file, write_text


@dataclass(frozen=True)
class ReportOptions:
    """How runs are compared, what the page may hold, and the images' folder if the runs do not record it."""

    compare: CompareOptions = field(default_factory=CompareOptions)
    limits: PageLimits = field(default_factory=PageLimits)
    image_root: Path | None = None
    title: str | None = None


@dataclass(frozen=True)
class WrittenReport:
    """A page: its path and size, and how many of the runs' images it shows."""

    path: Path
    bytes: int
    images: int
    shown: int


def write_report(
    paths: Sequence[Path], annotations: Path | None, output: Path, options: ReportOptions, display: Display
) -> WrittenReport:
    """Write the page. Raises what `compare_runs` raises, and UsageError when `output` cannot be written."""
    _check(output, options)
    display.detail("reading and evaluating")
    runs, notes, has_fewer_images = make_comparable(open_runs(paths), options.compare.align)
    comparison, truth, judged = compare_opened(
        runs, notes, annotations, options.compare, has_fewer_images, with_matches=True
    )
    runs = list(comparison.runs)
    iou = choose_iou([run.predictions for run in runs], options.compare.iou)
    finders = [make_finder(run, options.image_root) for run in runs]
    material = Material(runs, finders, truth, judged, iou, options.limits)
    display.detail("finding where they disagree")
    disagreement = measure_disagreement(material)
    chosen = choose_images(disagreement, options.limits.images)
    display.detail(f"making {len(chosen)} pictures")
    gallery = build_gallery(material, disagreement, chosen.tolist())
    text = render(Page(comparison, judged, gallery, options.limits, annotations, options.title, __version__))
    _write(output, text)
    return WrittenReport(output, len(text.encode()), len(runs[0].predictions), len(gallery.images))


def write_mask_report(
    paths: Sequence[Path], output: Path, compare: MaskOptions, options: ReportOptions, display: Display
) -> WrittenReport:
    """Write the page on runs with true masks; `options.compare` does not matter.

    Raises what `compare_masks` raises, also for one run, and UsageError when `output` cannot be written.
    """
    _check(output, options)
    display.detail("reading and evaluating")
    comparison, compared = compare_opened_masks(open_runs(paths), compare)
    finders = [make_finder(run, options.image_root) for run in comparison.runs]
    display.detail("making pictures")
    gallery = build_mask_gallery(comparison, compared, finders, options.limits)
    page = MaskPage(comparison, compared, gallery, options.limits, options.title, __version__)
    text = render_masks(page)
    _write(output, text)
    images = len(comparison.runs[0].predictions)
    return WrittenReport(output, len(text.encode()), images, len(gallery.images))


def _check(output: Path, options: ReportOptions) -> None:
    require_file(output, "--output")
    require_image_root(options.image_root)


def _write(output: Path, text: str) -> None:
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text)
