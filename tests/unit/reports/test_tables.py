"""Tables in every format, compared whole; and what the tables of a comparison say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.evaluation.compare.bootstrap import Interval
from orchestrator.evaluation.compare.compare import CompareOptions, Comparison, compare_runs
from orchestrator.reports.tables import (
    Cell,
    Table,
    format_csv,
    format_difference,
    format_json,
    format_latex,
    format_markdown,
    make_caption,
    make_tables,
    transpose,
)
from tests.unit.evaluation.compare_samples import two_runs

INTERVAL = Interval(-0.1, -0.25, -0.05, 50)
TABLE = Table(
    "runs",
    ("model", "AP", "Δ AP"),
    (
        (Cell("a|b_c", "a|b_c"), Cell("0.500", 0.5, best=True), Cell("", None)),
        (Cell("x^2", "x^2"), Cell("–", None), Cell("−0.100* [−0.250, −0.050]", INTERVAL)),
    ),
)
SHORT = Table("pairs", ("model", "other", "n"), ((Cell("a", "a"), Cell("b", "b"), Cell("3", 3)),), words=2)


def test_markdown() -> None:
    assert format_markdown([TABLE, SHORT]).splitlines() == [
        "| model | AP | Δ AP |",
        "| --- | ---: | ---: |",
        "| a\\|b_c | **0.500** |  |",
        "| x^2 | – | −0.100\\* [−0.250, −0.050] |",
        "",
        "| model | other | n |",
        "| --- | --- | ---: |",
        "| a | b | 3 |",
    ]


def test_csv() -> None:
    assert format_csv([TABLE, SHORT]).splitlines() == [
        "model,AP,Δ AP,Δ AP low,Δ AP high",
        "a|b_c,0.5,,,",
        "x^2,,-0.1,-0.25,-0.05",
        "",
        "model,other,n",
        "a,b,3",
    ]


def test_latex() -> None:
    assert format_latex([TABLE, SHORT]).splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"model & AP & $\Delta$ AP \\",
        r"\midrule",
        r"a|b\_c & \textbf{0.500} &  \\",
        r"x\textasciicircum{}2 & -- & $-$0.100* [$-$0.250, $-$0.050] \\",
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"model & other & n \\",
        r"\midrule",
        r"a & b & 3 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_transposed() -> None:
    turned = transpose(SHORT)
    assert (turned.title, turned.columns, turned.words) == ("pairs", ("", "a, b"), 1)
    assert [[cell.text for cell in row] for row in turned.rows] == [["n", "3"]]
    assert transpose(TABLE).columns == ("", "a|b_c", "x^2")


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """The worse run first, so that the best one is not the first."""
    good, worse, truth = two_runs(tmp_path)
    return compare_runs([worse, good], truth, CompareOptions(resamples=50, seed=3))


def test_the_highest_figure_of_each_kind_is_the_best(comparison: Comparison) -> None:
    (runs, differences) = make_tables(comparison, per_category=False)
    assert runs.columns == ("model", "variant", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR100", "mAP_w",
                            "mAP_w@50", "mAP_w@75")  # fmt: skip
    for column in range(2, len(runs.columns)):
        worse, good = (row[column] for row in runs.rows)
        assert [worse.text, good.text] == [f"{one.value:.3f}" for one in (worse, good)]
        assert [worse.best, good.best] == [worse.text >= good.text, good.text >= worse.text], runs.columns[column]
    assert [cell.text for cell in runs.rows[0][:2]] == ["worse", "cpu"]
    assert differences.columns == ("to worse", "Δ AP", "Δ AP50", "Δ AP75", "Δ mAP_w")
    (row,) = differences.rows
    interval = comparison.intervals[0]["ap"]
    assert (row[0].text, row[1].value) == ("good", interval)
    assert interval.low > 0
    assert row[1].text == f"+{interval.difference:.3f}* [+{interval.low:.3f}, +{interval.high:.3f}]"


def test_differences_are_columns_of_a_wide_table(comparison: Comparison) -> None:
    (wide,) = make_tables(comparison, per_category=False, wide=True)
    assert wide.columns[-4:] == ("Δ AP", "Δ AP50", "Δ AP75", "Δ mAP_w")
    first, second = wide.rows
    assert [cell.text for cell in first[-4:]] == [""] * 4
    assert [cell.value for cell in second[-4:]] == list(comparison.intervals[0].values())
    without = replace(comparison, intervals=({},))
    assert [cell.text for cell in make_tables(without, per_category=False, wide=True)[0].rows[1][-4:]] == ["–"] * 4


def test_an_interval_that_holds_zero_has_no_star(comparison: Comparison) -> None:
    around = replace(comparison, intervals=({"ap": Interval(0.0, -0.1, 0.1, 50)},))
    (_, differences) = make_tables(around, per_category=False)
    assert [cell.text for cell in differences.rows[0]] == ["good", "+0.000 [−0.100, +0.100]", "–", "–", "–"]


def test_categories_have_counts_and_a_best_run(comparison: Comparison) -> None:
    table = make_tables(comparison, per_category=True)[-1]
    assert (table.title, table.columns) == (
        "AP per category",
        ("category", "images", "instances", "worse", "good"),
    )
    for row, category in zip(table.rows, comparison.evaluations[0].per_category, strict=True):
        assert [cell.value for cell in row[:3]] == [category.name, category.annotated_images, category.annotations]
        if category.ap is not None:
            assert row[4].best
    assert [cell.text for cell in table.rows[-1]] == ["shoe", "0", "0", "–", "–"]
    assert not any(cell.best for cell in table.rows[-1])


def test_one_run_alone_has_no_best(comparison: Comparison) -> None:
    alone = replace(comparison, runs=comparison.runs[:1], evaluations=comparison.evaluations[:1], intervals=())
    (table,) = make_tables(alone, per_category=False)
    assert not any(cell.best for cell in table.rows[0])


def test_without_annotations_runs_are_paired(tmp_path: Path) -> None:
    good, worse, _ = two_runs(tmp_path)
    result = compare_runs([good, worse], None, CompareOptions(min_score=0.25))
    pairs, categories = make_tables(result, per_category=True)
    (agreement,) = result.agreements
    assert pairs.columns == ("model", "other model", "instances", "other's instances", "pairs at 0.5",
                             "agreement at 0.5", "agreement at 0.75", "agreement at 0.9")  # fmt: skip
    expected = ["good", "worse", agreement.first, agreement.second, agreement.pairs[0], *agreement.agreement]
    assert [cell.value for cell in pairs.rows[0]] == expected
    for row, category in zip(categories.rows, agreement.per_category, strict=True):
        total = category.first + category.second
        shares = [2 * count / total if total else None for count in category.pairs]
        assert [cell.value for cell in row] == [
            "good",
            "worse",
            category.name,
            category.first,
            category.second,
            *shares,
        ]
    assert make_caption(result) == ["agreement of masks that score at least 0.25, 2 · pairs / instances"]


def test_the_caption_says_how_figures_were_made(comparison: Comparison) -> None:
    engine = comparison.evaluations[0].engine
    assert make_caption(comparison) == [
        f"masks of 12 annotated images, by {engine}",
        "Δ: difference to worse; paired: 50 resamples of the images, seed 3, each of 12 images drawn with replacement, "
        "the same for both runs",
        "[from, to]: the middle 95% of the resampled differences; * leaves out zero",
    ]
    changes: dict[str, Any] = {"missing": 2, "unknown_images": ("x", "y", "z"), "notes": ("a note",)}
    told = replace(comparison, evaluations=(comparison.evaluations[0], replace(comparison.evaluations[1], **changes)))
    assert make_caption(told)[3:] == [
        "good: 2 annotated images have no predictions and count as missed",
        "good: 3 predicted images are not annotated, not counted",
        "good: a note",
    ]


def test_json_is_the_whole_comparison(comparison: Comparison) -> None:
    text = format_json(comparison)
    assert text.startswith('{\n  "runs": [\n    {\n      "label": "worse",\n')
    assert text.endswith("}\n")
    document = json.loads(text)
    assert document["confidence"] == 0.95
    assert [one["ap"] for one in document["evaluations"]] == [one.ap for one in comparison.evaluations]
    assert document["differences"][0]["ap"]["low"] == comparison.intervals[0]["ap"].low
    assert document["agreement_levels"] == [0.5, 0.75, 0.9]


def test_boxes_are_called_boxes(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    result = compare_runs([good, worse], truth, CompareOptions(iou="bbox", resamples=0))
    assert make_caption(result) == [f"boxes of 12 annotated images, by {result.evaluations[0].engine}"]
    assert [table.title for table in make_tables(result, per_category=False)] == ["runs"]


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.002, 0.0004, 0.0042, 9), "+0.0020* [+0.0004, +0.0042]"),
        (Interval(-0.5, -0.7, -0.2, 9), "−0.500* [−0.700, −0.200]"),
        (Interval(0.002, -0.0004, 0.0042, 9), "+0.002 [−0.000, +0.004]"),
    ],
)
def test_a_star_and_a_bound_of_zero_do_not_meet(interval: Interval, text: str) -> None:
    assert format_difference({"ap": interval}, "ap").text == text
