"""Charts as inline SVG: precision over recall, and histograms of scores. The page's CSS classes colour them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 220, 150
LEFT, RIGHT, TOP, BOTTOM = 30, 8, 8, 24
BINS = 20


def draw_precision_recall(curves: Sequence[NDArray[np.float64]], labels: Sequence[str], title: str) -> str:
    """Draw (101,) precisions at COCO's recalls, a line for each run; -1 where nothing is annotated."""
    return _draw_frame(_draw_lines(curves, labels), title, ("0", "0.5", "1"), ("0", "0.5", "1"), "recall", "precision")


def draw_f1(curves: Sequence[NDArray[np.float64]], labels: Sequence[str], title: str) -> str:
    """Draw (256,) values of F1 at thresholds from 0 to 1, a line for each run; nan where nothing is manipulated."""
    known = [np.nan_to_num(curve, nan=-1) for curve in curves]
    return _draw_frame(_draw_lines(known, labels), title, ("0", "0.5", "1"), ("0", "0.5", "1"), "threshold", "F1")


def _draw_lines(curves: Sequence[NDArray[np.float64]], labels: Sequence[str]) -> str:
    lines = []
    for number, curve in enumerate(curves):
        if curve.max(initial=-1) < 0:
            continue
        points = " ".join(
            f"{_x(share):.1f},{_y(value):.1f}"
            for share, value in zip(np.linspace(0, 1, len(curve)).tolist(), curve.tolist(), strict=True)
        )
        label = f"<title>{escape(labels[number])}</title>"
        lines.append(f'<polyline class="line run{number % 6}" points="{points}">{label}</polyline>')
    return "".join(lines)


def draw_histogram(scores: NDArray[np.float32], number: int, title: str) -> str:
    """Draw the numbers of instances in BINS equal parts of the scores from 0 to 1."""
    counts, _ = np.histogram(scores, bins=BINS, range=(0, 1))
    highest = int(counts.max(initial=0))
    width = (WIDTH - LEFT - RIGHT) / BINS
    bars = []
    for index, count in enumerate(counts.tolist()):
        if count:
            y = _y(count / highest)
            bars.append(
                f'<rect class="bar run{number % 6}" x="{LEFT + index * width + 0.5:.1f}" y="{y:.1f}" '
                f'width="{width - 1:.1f}" height="{HEIGHT - BOTTOM - y:.1f}">'
                f"<title>{index / BINS:.2f} to {(index + 1) / BINS:.2f}: {count}</title></rect>"
            )
    return _draw_frame("".join(bars), title, ("0", "0.5", "1"), ("0", "", _abbreviate(highest)), "score", "instances")


def _draw_frame(
    content: str, title: str, across: tuple[str, str, str], up: tuple[str, str, str], below: str, beside: str
) -> str:
    grid, marks = [], []
    for share, text in zip((0.0, 0.5, 1.0), up, strict=True):
        y = _y(share)
        grid.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text class="tick" x="{LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{text}</text>')
    for share, text in zip((0.0, 0.5, 1.0), across, strict=True):
        anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
        marks.append(f'<text class="tick" x="{_x(share):.1f}" y="{HEIGHT - 11}" text-anchor="{anchor}">{text}</text>')
    marks.append(f'<text class="axis" x="{_x(0.5):.1f}" y="{HEIGHT - 1}" text-anchor="middle">{below}</text>')
    name = escape(f"{title}: {beside} over {below}", quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f"{''.join(grid)}{content}{''.join(marks)}</svg>"
    )


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _abbreviate(number: int) -> str:
    return f"{number / 1000:.0f}k" if number >= 10_000 else f"{number}"
