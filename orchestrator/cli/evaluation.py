"""`orch eval`, `compare` and `report`: from predictions to figures, a table, a page."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from orchestrator.cli.common import JsonOption, print_json, print_table, say
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.compare import Comparison
    from orchestrator.compare.tables import Table
    from orchestrator.evaluate.results import Evaluation

SHOWN = 5
FORMATS = ("rich", "csv", "json", "markdown", "latex")
SourceArgument = Annotated[Path, typer.Argument(metavar="FILE|RUN", help="predictions.npz, or a run directory.")]
SourcesArgument = Annotated[list[Path], typer.Argument(metavar="FILE|RUN...", help="Predictions, or run directories.")]
AnnotationsOption = Annotated[
    Path | None, typer.Option("--annotations", "-a", metavar="COCO.json", help="The truth: a COCO annotation file.")
]
IouOption = Annotated[str, typer.Option("--iou", help="Compare masks (segm) or boxes (bbox).")]
CategoriesOption = Annotated[
    list[str] | None, typer.Option("--categories", metavar="NAME|ID", help="These only; repeatable, or with commas.")
]
AlignOption = Annotated[bool, typer.Option("--align", help="Compare only what all runs have, and say what that is.")]
ResamplesOption = Annotated[int, typer.Option(min=0, max=100_000, help="For the intervals of differences; 0: none.")]


def iou_kind(text: str) -> Literal["segm", "bbox"]:
    """The checked value of --iou."""
    if text not in ("segm", "bbox"):
        raise UsageError(f"--iou {text}: must be segm or bbox")
    return cast(Literal["segm", "bbox"], text)


def evaluate(
    file: SourceArgument,
    annotations: AnnotationsOption = None,
    iou: IouOption = "segm",
    categories: CategoriesOption = None,
    count_iou: Annotated[float, typer.Option(min=0.01, max=1, help="IoU at which right and wrong is counted.")] = 0.5,
    count_score: Annotated[float, typer.Option(min=0, max=1, help="Least score of what is counted.")] = 0.0,
    engine: Annotated[str, typer.Option(help="hotcoco (fast), pycocotools (the reference), or auto.")] = "auto",
    json: JsonOption = False,
) -> None:
    """Score predictions against annotations: COCO's AP and AR, FashionFail's mAP_w, counts, per category."""
    kind = iou_kind(iou)
    if annotations is None:
        raise UsageError("no truth was given", hint=f"orch eval {file} --annotations COCO.json")
    from orchestrator.evaluate import CountsAt
    from orchestrator.evaluate import evaluate as evaluate_predictions
    from orchestrator.predictions import Predictions
    from orchestrator.runs import predictions_file

    predictions = Predictions.load(predictions_file(file))
    counts_at = CountsAt(count_iou, count_score)
    result = evaluate_predictions(predictions, annotations, kind, categories or (), counts_at, engine)
    if json:
        print_json({"predictions": str(predictions.path), "annotations": str(annotations), **asdict(result)})
        return
    _say_images(result)
    _print_figures(result)
    _print_categories(result)


def _say_images(result: Evaluation) -> None:
    what = "masks" if result.iou == "segm" else "boxes"
    say(f"{what} of {result.images} annotated images, {result.detections} instances, by {result.engine}")
    for names, meaning in (
        (result.missing_images, "annotated images have no predictions; what is in them counts as missed"),
        (result.unknown_images, "predicted images are not in the annotations and do not count"),
        (result.failed_images, "images failed when they were predicted; what is in them counts as missed"),
    ):
        if names:
            say(f"note: {len(names)} {meaning}: {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}")
    for note in result.notes:
        say(f"note: {note}")


def _print_figures(result: Evaluation) -> None:
    counts, weighted = result.counts, result.weighted
    figures = {
        "AP": result.ap,
        "AP50": result.ap50,
        "AP75": result.ap75,
        "AP small": result.ap_small,
        "AP medium": result.ap_medium,
        "AP large": result.ap_large,
        "AR1": result.ar1,
        "AR10": result.ar10,
        "AR100": result.ar100,
        "AR small": result.ar_small,
        "AR medium": result.ar_medium,
        "AR large": result.ar_large,
        "mAP_w": weighted.map_w,
        "mAP_w@50": weighted.map_w50,
        "mAP_w@75": weighted.map_w75,
        "mAR_w(1)": weighted.mar_w1,
        "mAR_w(100)": weighted.mar_w100,
    }
    rows = [[name, share(value)] for name, value in figures.items()]
    at = f"IoU {result.counts_iou:g}" + (f", score {result.counts_score:g}" if result.counts_score else "")
    rows += [[f"TP, FP, FN ({at})", f"{counts.tp}, {counts.fp}, {counts.fn}"]]
    rows += [["precision, recall", f"{share(counts.precision)}, {share(counts.recall)}"]]
    print_table(["", result.iou], rows)


def _print_categories(result: Evaluation) -> None:
    columns = ["category", "images", "instances", "AP", "AP50", "AP75", "AR100", "TP", "FP", "FN", "weight"]
    rows = [
        [
            one.name,
            str(one.annotated_images),
            str(one.annotations),
            *(share(value) for value in (one.ap, one.ap50, one.ap75, one.ar100)),
            *(str(count) for count in (one.counts.tp, one.counts.fp, one.counts.fn)),
            share(one.weight),
        ]
        for one in result.per_category
    ]
    print_table(columns, rows)


def report(
    files: SourcesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    annotations: AnnotationsOption = None,
    iou: IouOption = "segm",
    categories: CategoriesOption = None,
    align: AlignOption = False,
    max_images: Annotated[int, typer.Option(min=1, help="Most images in the gallery.")] = 240,
    max_megabytes: Annotated[float, typer.Option(min=0.1, help="Most the gallery may weigh.")] = 16.0,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Least score of what is drawn.")] = 0.3,
    image_root: Annotated[
        Path | None, typer.Option(help="Where the images lie, if not where the runs found them.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    resamples: ResamplesOption = 1000,
    json: JsonOption = False,
) -> None:
    """Write one HTML page on runs: figures, curves, pictures side by side, failures, provenance. Nothing is fetched."""
    kind = iou_kind(iou)
    from orchestrator.compare import Options
    from orchestrator.progress import make_display
    from orchestrator.report import Limits, ReportOptions, write_report

    compared = Options(kind, tuple(categories or ()), align, resamples, min_score=min_score)
    limits = Limits(images=max_images, megabytes=max_megabytes, min_score=min_score)
    options = ReportOptions(compared, limits, image_root, title)
    display = make_display(json=json, quiet=False)
    written = write_report(files, annotations, output, options, display)
    if json:
        facts = {"report": str(written.path), "bytes": written.bytes, "images": written.images, "shown": written.shown}
        print_json(facts)
    else:
        display.say(
            f"wrote {written.path} ({written.bytes / 1e6:.1f} MB, {written.shown} of {written.images} images shown)"
        )


def share(value: float | None) -> str:
    """A figure in [0, 1] for people."""
    return "–" if value is None else f"{value:.3f}"


def compare(
    files: SourcesArgument,
    annotations: AnnotationsOption = None,
    iou: IouOption = "segm",
    categories: CategoriesOption = None,
    align: AlignOption = False,
    per_category: Annotated[bool, typer.Option("--per-category", help="A table of categories too.")] = False,
    resamples: ResamplesOption = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling.")] = 0,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Least score, where there are no annotations.")] = 0.5,
    engine: Annotated[str, typer.Option(help="hotcoco (fast), pycocotools (the reference), or auto.")] = "auto",
    format_name: Annotated[str, typer.Option("--format", "-f", help="rich, csv, json, markdown or latex.")] = "rich",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there instead of to stdout.")] = None,
    json: JsonOption = False,
) -> None:
    """Compare runs fairly: figures side by side with intervals, or without annotations how far they agree."""
    if format_name not in FORMATS:
        from orchestrator.catalog import did_you_mean

        raise UsageError(f"there is no format {format_name!r}", why=did_you_mean(format_name, FORMATS))
    kind = iou_kind(iou)
    from orchestrator.compare import Options
    from orchestrator.compare import compare as compare_runs
    from orchestrator.compare.tables import as_document, caption, tables

    options = Options(kind, tuple(categories or ()), align, resamples, seed, min_score, engine)
    result = compare_runs(files, annotations, options)
    if json:
        print_json(as_document(result))
        return
    for line in (*result.notes, *caption(result)):
        say(line)
    shown = tables(result, per_category, wide=format_name == "csv")
    if format_name == "rich" and output is None:
        _print_rich(shown)
        return
    _write(_formatted(result, shown, format_name), output)


def _formatted(result: Comparison, shown: list[Table], format_name: str) -> str:
    from orchestrator.compare.tables import as_csv, as_json, as_latex, as_markdown

    if format_name == "json":
        return as_json(result)
    return {"csv": as_csv, "latex": as_latex}.get(format_name, as_markdown)(shown)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="")
        return
    from orchestrator.files import write_text

    write_text(output, text)
    say(f"wrote {output}")


def _print_rich(shown: list[Table]) -> None:
    """Tables in a terminal, the best in bold; plain, tab-separated text where stdout is none."""
    if not sys.stdout.isatty():
        for table in shown:
            print_table(list(table.columns), [[cell.text for cell in row] for row in table.rows])
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in shown:
        drawn = RichTable(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for place, name in enumerate(table.columns):
            left = place < table.words
            drawn.add_column(name, justify="left" if left else "right", overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
        Console(highlight=False).print(drawn)
