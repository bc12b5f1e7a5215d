"""One self-contained HTML page on one or more runs: figures, curves, pictures side by side, failures, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator import __version__
from orchestrator.errors import UsageError
from orchestrator.evaluation.coco.detections import check_predictions
from orchestrator.evaluation.coco.ground_truth import Truth
from orchestrator.evaluation.compare.agreement import agreements
from orchestrator.evaluation.compare.bootstrap import CONFIDENCE
from orchestrator.evaluation.compare.compare import (
    Comparison,
    Judged,
    Options,
    comparable,
    compared_to_first,
    judge,
    truth_for,
)
from orchestrator.evaluation.runs import Source, open_sources
from orchestrator.reports.html.gallery import Finder, Limits, Material, build, choose, disagreement
from orchestrator.reports.html.page import Page, render
from orchestrator.reports.pictures import input_locator
from orchestrator.system.display import Display
from orchestrator.system.files import write_text

__all__ = ["Limits", "ReportOptions", "Written", "write_report"]


@dataclass(frozen=True)
class ReportOptions:
    """How runs are compared, what the page may hold, and where images lie if the runs do not say."""

    compare: Options = field(default_factory=Options)
    limits: Limits = field(default_factory=Limits)
    image_root: Path | None = None
    title: str | None = None


@dataclass(frozen=True)
class Written:
    """A page: where it is, its bytes, and how many of the runs' images it shows."""

    path: Path
    bytes: int
    images: int
    shown: int


def write_report(
    paths: Sequence[Path], annotations: Path | None, output: Path, options: ReportOptions, display: Display
) -> Written:
    """Write the page. Raises what `orch compare` raises, and UsageError when `output` is no file one can write."""
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(f"cannot write {output}", why="it is a folder, or its folder is not there")
    display.detail("reading and evaluating")
    sources, notes, cut_images = comparable(open_sources(paths), options.compare.align)
    compared, truth, judged = _judged(sources, annotations, options.compare, cut_images)
    comparison = replace(compared, notes=tuple(notes))
    finders = [_finder(source, options.image_root) for source in sources]
    material = Material(sources, finders, truth, judged, options.compare.iou, options.limits)
    display.detail("finding where they disagree")
    apart = disagreement(material)
    chosen = choose(apart, options.limits.images)
    display.detail(f"making {len(chosen)} pictures")
    gallery = build(material, apart, chosen.tolist())
    page = Page(comparison, judged, gallery, options.limits, annotations, options.title, __version__)
    text = render(page)
    write_text(output, text)
    return Written(output, len(text.encode()), len(sources[0].predictions), len(gallery.images))


def _judged(
    sources: Sequence[Source], annotations: Path | None, options: Options, cut_images: bool
) -> tuple[Comparison, Truth | None, list[Judged]]:
    if annotations is None:
        for source in sources:
            check_predictions(source.predictions)
        between = tuple(agreements(sources, options.iou, options.min_score))
        return Comparison(tuple(sources), options, CONFIDENCE, (), (), between, ()), None, []
    truth = truth_for(annotations, options, sources[0] if cut_images else None)
    judged = [judge(source, truth, options, with_matches=True) for source in sources]
    differences = compared_to_first(judged, truth, options)
    evaluations = tuple(one.evaluation for one in judged)
    return Comparison(tuple(sources), options, CONFIDENCE, evaluations, differences, (), ()), truth, judged


def _finder(source: Source, root: Path | None) -> Finder | None:
    """Where the source's images lie: under `root` if that is given, else where its run found them."""
    if root is not None:
        return lambda file: root / file
    if source.paths is None or not source.run or not source.paths.inputs.is_file():
        return None
    try:
        return input_locator(source.paths, source.run)
    except (KeyError, TypeError, ValueError):
        return None
