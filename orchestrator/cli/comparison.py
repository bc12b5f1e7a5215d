"""`orch compare` and `orch report`: several runs in a table, or on a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.common import JsonOption, print_json, say
from orchestrator.cli.evaluation import AnnotationsOption, CategoriesOption, IouOption, iou_kind, no_collector
from orchestrator.cli.gate import BaselineOption, FailOnOption
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from orchestrator.evaluation.compare.compare import Comparison
    from orchestrator.reports.tables import Table

FORMATS = ("rich", "csv", "json", "markdown", "latex")
BETWEEN_COLUMNS = 3  # characters
SourcesArgument = Annotated[list[Path], typer.Argument(metavar="FILE|RUN...", help="Predictions, or run directories.")]
AlignOption = Annotated[bool, typer.Option("--align", help="Compare only what all runs have, and say what that is.")]
ResamplesOption = Annotated[int, typer.Option(min=0, max=100_000, help="For the intervals of differences; 0: none.")]


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
    baseline: BaselineOption = None,
    fail_on: FailOnOption = None,
    json: JsonOption = False,
) -> int:
    """Compare runs fairly: figures side by side with intervals, or without annotations how far they agree.

    With --baseline: one run against stored figures.
    """
    if format_name not in FORMATS:
        from orchestrator.system.suggestions import unknown_name

        raise unknown_name("format", format_name, FORMATS)
    kind = iou_kind(iou)
    if baseline is not None:
        from orchestrator.cli.against_baseline import asked, compare_to_baseline

        over = {"iou": kind, "categories": categories or (), "engine": engine, "per_category": per_category}
        return compare_to_baseline(asked(files, baseline, annotations, fail_on, **over), format_name, output, json)
    if fail_on:
        raise UsageError("--fail-on needs a baseline", hint="orch compare RUN --baseline FILE|RUN -a COCO.json …")
    from orchestrator.evaluation.compare.compare import Options
    from orchestrator.evaluation.compare.compare import compare as compare_runs
    from orchestrator.reports.tables import as_document, caption, tables

    options = Options(kind, tuple(categories or ()), align, resamples, seed, min_score, engine)
    with no_collector():
        result = compare_runs(files, annotations, options)
    if json:
        print_json(as_document(result))
        return EXIT_OK
    for line in (*result.notes, *caption(result)):
        say(line)
    shown = tables(result, per_category, wide=format_name == "csv")
    if format_name == "rich" and output is None:
        print_rich(shown)
        return EXIT_OK
    write_or_print(_formatted(result, shown, format_name), output)
    return EXIT_OK


def _formatted(result: Comparison, shown: list[Table], format_name: str) -> str:
    from orchestrator.reports.tables import as_csv, as_json, as_latex, as_markdown

    if format_name == "json":
        return as_json(result)
    return {"csv": as_csv, "latex": as_latex}.get(format_name, as_markdown)(shown)


def write_or_print(text: str, output: Path | None) -> None:
    """To the file, said; else to stdout."""
    if output is None:
        print(text, end="")
        return
    from orchestrator.system.files import write_text

    write_text(output, text)
    say(f"wrote {output}")


def print_rich(shown: list[Table]) -> None:
    """Tables in a terminal, the best in bold; plain, tab-separated text where stdout is none."""
    if not sys.stdout.isatty():
        for table in shown:
            print_table(list(table.columns), [[cell.text for cell in row] for row in table.rows])
        return
    from rich.console import Console

    from orchestrator.reports.tables import transposed

    console = Console(highlight=False)
    for table in shown:
        wide = sum(_least_widths(table)) + BETWEEN_COLUMNS * len(table.columns) > console.width
        console.print(_drawn(transposed(table) if wide else table))


def _least_widths(table: Table) -> list[int]:
    """Of each column: figures stay whole, names that are long are folded."""
    widths = []
    for place, name in enumerate(table.columns):
        longest = max((len(row[place].text) for row in table.rows), default=0)
        widths.append(min(max(longest, len(name)), 16) if place < table.words else max(longest, min(len(name), 10)))
    return widths


def _drawn(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for place, (name, least) in enumerate(zip(table.columns, _least_widths(table), strict=True)):
        justify: Literal["left", "right"] = "left" if place < table.words else "right"
        drawn.add_column(name, justify=justify, overflow="fold", min_width=least)
    for row in table.rows:
        drawn.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
    return drawn


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
    from orchestrator.cli.progress import make_display
    from orchestrator.evaluation.compare.compare import Options
    from orchestrator.reports.html.write import Limits, ReportOptions, write_report

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
