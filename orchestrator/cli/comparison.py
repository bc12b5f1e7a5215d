"""`orch compare` and `orch report`: several runs in a table, or on a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import JsonOption, check_file, print_json, say
from orchestrator.cli.evaluation import (
    AlignOption,
    AnnotationsOption,
    AttributeScoreOption,
    CategoriesOption,
    InvertedMasksOption,
    IouOption,
    MasksOption,
    ProtocolOption,
    StrictOption,
    check_iou,
    disabled_collector,
)
from orchestrator.cli.gate import BaselineOption, FailOnOption, compare_to_baseline
from orchestrator.cli.tables import write_figures
from orchestrator.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from orchestrator.evaluation import MaskOptions

FORMATS = ("rich", "csv", "json", "markdown", "latex")
SourcesArgument = Annotated[list[Path], typer.Argument(metavar="FILE|RUN...", help="Predictions, or run directories.")]
ResamplesOption = Annotated[
    int, typer.Option(min=0, max=100_000, help="Resamples for the intervals of differences; 0: no intervals.")
]


def compare(
    files: SourcesArgument,
    annotations: AnnotationsOption = None,
    iou: IouOption = None,
    categories: CategoriesOption = None,
    masks: MasksOption = None,
    inverted_masks: InvertedMasksOption = False,
    protocol: ProtocolOption = None,
    align: AlignOption = False,
    strict: StrictOption = False,
    per_category: Annotated[bool, typer.Option("--per-category", help="Also print a table of categories.")] = False,
    resamples: ResamplesOption = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Without annotations: least score of an instance that counts.")
    ] = 0.5,
    engine: Annotated[str, typer.Option(help="hotcoco (fast), pycocotools (the reference), or auto.")] = "auto",
    attribute_score: AttributeScoreOption = None,
    format_name: Annotated[str, typer.Option("--format", "-f", help="rich, csv, json, markdown or latex.")] = "rich",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", callback=check_file, help="Write to this file instead of stdout."),
    ] = None,
    baseline: BaselineOption = None,
    fail_on: FailOnOption = None,
    json: JsonOption = False,
) -> int:
    """Compare runs on equal terms: figures with intervals, or without annotations their agreement.

    --masks: figures of manipulated pixels and images. --baseline: compare one run with stored figures.
    """
    if format_name not in FORMATS:
        from orchestrator.system import unknown_name

        raise unknown_name("format", format_name, FORMATS)
    kind = check_iou(iou)
    if fail_on and baseline is None:
        raise UsageError("--fail-on needs a baseline", hint="orch compare RUN --baseline FILE|RUN -a COCO.json …")
    of_instances = (annotations, kind, categories, attribute_score, baseline)
    if _is_about_masks(files, masks, inverted_masks, protocol, of_instances):
        from orchestrator.evaluation import MaskOptions

        mask_options = MaskOptions(masks, inverted_masks, protocol, align, resamples, seed, strict)
        _compare_masks(files, mask_options, format_name, output, json)
        return EXIT_OK
    if baseline is not None:
        truth = (annotations, fail_on or (), kind, categories or (), engine, attribute_score, strict, protocol)
        return compare_to_baseline(
            files, baseline, *truth, per_category=per_category, format_name=format_name, output=output, json=json
        )
    from orchestrator.evaluation import CompareOptions, compare_runs
    from orchestrator.reports import make_caption, make_document, make_tables

    rules = (protocol,) if protocol else ()
    compare_options = CompareOptions(
        kind, tuple(categories or ()), align, resamples, seed, min_score, engine, attribute_score, strict, *rules
    )
    with disabled_collector():
        result = compare_runs(files, annotations, compare_options)
    if json:
        print_json(make_document(result))
        return EXIT_OK
    for line in (*result.notes, *make_caption(result)):
        say(line)
    tables = make_tables(result, per_category, wide=format_name == "csv")
    write_figures(make_document(result), tables, format_name, output)
    return EXIT_OK


def _is_about_masks(
    files: list[Path], masks: Path | None, inverted_masks: bool, protocol: str | None, of_instances: tuple[object, ...]
) -> bool:
    """Return whether runs are compared with true masks: those given, or those that came with their images.

    `of_instances`: the values of --annotations, --iou, --categories, --attribute-score and --baseline. UsageError when
    one of them is given together with an option on true masks.
    """
    names = ("--annotations", "--iou", "--categories", "--attribute-score", "--baseline")
    given = [name for name, value in zip(names, of_instances, strict=False) if value not in (None, [])]
    asked = "--masks" if masks is not None else "--inverted-masks" if inverted_masks else None
    if asked is not None and given:
        raise UsageError(f"{asked} and {given[0]} were given", why="true masks are compared without it")
    if asked is not None or given:
        return asked is not None
    from orchestrator.evaluation import has_recorded_masks, is_mask_protocol

    return is_mask_protocol(protocol) if protocol else has_recorded_masks(files)


def _compare_masks(files: list[Path], options: MaskOptions, format_name: str, output: Path | None, json: bool) -> None:
    from orchestrator.evaluation import compare_masks
    from orchestrator.reports import make_mask_caption, make_mask_document, make_mask_tables

    result = compare_masks(files, options)
    document = make_mask_document(result)
    if json:
        print_json(document)
        return
    for line in (*result.notes, *make_mask_caption(result)):
        say(line)
    write_figures(document, make_mask_tables(result, wide=format_name == "csv"), format_name, output)


def report(
    files: SourcesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", callback=check_file, help="File of the page.")] = Path(
        "report.html"
    ),
    annotations: AnnotationsOption = None,
    iou: IouOption = None,
    categories: CategoriesOption = None,
    masks: MasksOption = None,
    inverted_masks: InvertedMasksOption = False,
    protocol: ProtocolOption = None,
    align: AlignOption = False,
    strict: StrictOption = False,
    max_images: Annotated[int, typer.Option(min=1, help="Largest number of images in the gallery.")] = 240,
    max_megabytes: Annotated[float, typer.Option(min=0.1, help="Largest size of the gallery, in megabytes.")] = 16.0,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Least score of an instance that is drawn.")] = 0.3,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder of the images, if the runs' own is not available.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    resamples: ResamplesOption = 1000,
    attribute_score: AttributeScoreOption = None,
    json: JsonOption = False,
) -> None:
    """Write one HTML page on runs: figures, curves, pictures side by side, failures, provenance.

    --masks: heat maps of manipulated pixels beside the true masks.
    """
    kind = check_iou(iou)
    from orchestrator.cli.progress import make_display
    from orchestrator.evaluation import CompareOptions, MaskOptions
    from orchestrator.reports import PageLimits, ReportOptions, write_mask_report, write_report

    compare_options = CompareOptions(
        kind,
        tuple(categories or ()),
        align,
        resamples,
        min_score=min_score,
        attribute_score=attribute_score,
        strict=strict,
    )
    of_instances = (annotations, kind, categories, attribute_score)
    is_about_masks = _is_about_masks(files, masks, inverted_masks, protocol, of_instances)
    if protocol and not is_about_masks:
        compare_options = replace(compare_options, protocol=protocol)
    limits = PageLimits(images=max_images, megabytes=max_megabytes, min_score=min_score)
    options = ReportOptions(compare_options, limits, image_root, title)
    display = make_display(json=json, quiet=False)
    if is_about_masks:
        mask_options = MaskOptions(masks, inverted_masks, protocol, align, resamples, strict=strict)
        written = write_mask_report(files, output, mask_options, options, display)
    else:
        written = write_report(files, annotations, output, options, display)
    if json:
        facts = {"report": str(written.path), "bytes": written.bytes, "images": written.images, "shown": written.shown}
        print_json(facts)
    else:
        display.say(
            f"wrote {written.path} ({written.bytes / 1e6:.1f} MB, {written.shown} of {written.images} images shown)"
        )
