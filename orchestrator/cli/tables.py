"""Print tables: drawn in a terminal, plain tab-separated text elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.cli.common import say, show_line
from orchestrator.system import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from orchestrator.reports import Table

SPACE_BETWEEN = 3  # characters between two columns
LONGEST_FIRST = 28  # the same of the first column
LEAST_FOLDED = 16  # characters that a column of long text needs
LONGEST_NAME = 16  # characters of a text column that stay on one line


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str] = ()) -> None:
    """Print rows of text on stdout, as wide as they are.

    In a terminal long text is folded, short text never; where even that does not fit, the columns named in `optional`
    are left out, the first one first.
    """
    if not sys.stdout.isatty():
        _print_plain(columns, rows)
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    fitting = _fit(columns, rows, console.width, LONGEST_FIRST if optional else LEAST_FOLDED)
    if fitting is None and optional:
        shown = [index for index, name in enumerate(columns) if name != optional[0]]
        print_table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows], optional[1:])
        return
    space, widths = fitting or (SPACE_BETWEEN, [None] * len(columns))
    table = _empty_table()
    table.padding = (0, 1, 0, space - 2)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, overflow="fold", width=width)
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


def _fit(
    columns: Sequence[str], rows: Sequence[Sequence[str]], room: int, longest_word: int
) -> tuple[int, list[int | None]] | None:
    """Return the space between columns and their widths; None where the columns do not fit into the room.

    A name in the first column and all other short text keep their width; long text shares what is left. Words up to
    `longest_word` are not folded.
    """
    texts = [[name, *(printable(row[index]) for row in rows)] for index, name in enumerate(columns)]
    longest = [max(map(len, column)) for column in texts]
    kept = [width <= (LONGEST_NAME if index else LONGEST_FIRST) for index, width in enumerate(longest)]
    folded = [index for index, is_kept in enumerate(kept) if not is_kept]
    words = {index: max(len(word) for text in texts[index] for word in (*text.split(), "")) for index in folded}
    least = {index: max(LEAST_FOLDED, min(words[index], longest_word)) for index in folded}
    for space in (SPACE_BETWEEN, SPACE_BETWEEN - 1):
        rest = room - 2 - space * (len(columns) - 1) - sum(longest[i] for i, is_kept in enumerate(kept) if is_kept)
        spare = rest - sum(least.values())
        if spare < 0:
            continue
        widths: list[int | None] = list(longest)
        for number, index in enumerate(sorted(folded, key=lambda one: longest[one] - least[one])):
            more = min(longest[index] - least[index], spare // (len(folded) - number))
            widths[index] = least[index] + more
            spare -= more
        return space, widths
    return None


def print_figures(tables: Sequence[Table]) -> None:
    """Print tables of figures on stdout, the best in bold; one too wide for the terminal is transposed."""
    if not sys.stdout.isatty():
        for table in tables:
            _print_plain(table.columns, [[cell.text for cell in row] for row in table.rows])
        return
    from rich.console import Console

    from orchestrator.reports import transpose

    console = Console(highlight=False)
    for table in tables:
        width = sum(_minimum_widths(table)) + SPACE_BETWEEN * len(table.columns)
        console.print(_draw_figures(transpose(table) if width > console.width else table))


def write_figures(document: Any, tables: Sequence[Table], format_name: str, output: Path | None) -> None:
    """Write tables to the file `output`, or print them; `document` is their content for the format json."""
    if format_name == "rich" and output is None:
        print_figures(tables)
        return
    from orchestrator.reports import format_csv, format_latex, format_markdown

    if format_name == "json":
        text = json.dumps(document, indent=2) + "\n"
    else:
        text = {"csv": format_csv, "latex": format_latex}.get(format_name, format_markdown)(tables)
    write_or_print(text, output)


def write_or_print(text: str, output: Path | None) -> None:
    """Write text to the file `output` and say so, or print it on stdout."""
    if output is None:
        for line in text.removesuffix("\n").split("\n"):
            show_line(line)
        return
    from orchestrator.system import write_text

    write_text(output, text)
    say(f"wrote {output}")


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (columns, *rows):
        show_line("\t".join(cell.replace("\t", "\\t") for cell in row))


def _empty_table() -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    return RichTable(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)


def _minimum_widths(table: Table) -> list[int]:
    """Return the width each column needs: figures are never folded, long names are."""
    widths = []
    for index, name in enumerate(table.columns):
        longest = max((len(row[index].text) for row in table.rows), default=0)
        is_text = index < table.words
        widths.append(min(max(longest, len(name)), LONGEST_NAME) if is_text else max(longest, min(len(name), 10)))
    return widths


def _choose_widths(table: Table) -> list[int]:
    """Return the width of each column: what it needs, and as much of the rest as fits.

    Left to rich, columns would share the rest alike, and what some of them need would be cut off at the end.
    """
    from rich.console import Console

    widths = _minimum_widths(table)
    rest = max(0, Console().width - sum(widths) - SPACE_BETWEEN * len(widths))
    for index, name in enumerate(table.columns):
        longest = max([len(name), *(len(row[index].text) for row in table.rows)])
        more = min(longest - widths[index], rest)
        widths[index] += more
        rest -= more
    return widths


def _draw_figures(table: Table) -> RichTable:
    from rich.text import Text

    drawn = _empty_table()
    for index, (name, width) in enumerate(zip(table.columns, _choose_widths(table), strict=True)):
        justify: Literal["left", "right"] = "left" if index < table.words else "right"
        drawn.add_column(printable(name), justify=justify, overflow="fold", width=width)
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell.text), style="bold" if cell.best else "") for cell in row))
    return drawn
