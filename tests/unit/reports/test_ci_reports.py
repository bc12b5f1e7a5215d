"""The JUnit report and the job summary: what is in them, and that nothing in a file name breaks them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from orchestrator import __version__
from orchestrator.errors import MachineError
from orchestrator.evaluation.gate.gate import GateResult
from orchestrator.evaluation.gate.rules import FigureChange, Verdict
from orchestrator.reports.job_summary import SHOWN_FAILURES, append_summary, escape_cell, format_summary
from orchestrator.reports.junit import MAX_CASES, Case, build_document, escape, list_cases, write_junit

KEPT, BROKEN = Verdict("failed-images:5", False, "fine"), Verdict("failed-images", True, "1 of 3 images failed")
MOMENT = 1_763_789_025.0


def summary(*failures: str, images: int = 3) -> dict[str, Any]:
    """The parts of a run's summary that reports read."""
    return {
        "model": "m",
        "images": images,
        "predicted": images - len(failures),
        "failed": len(failures),
        "instances": 7,
        "failures": [{"image_file": file, "error": "it is text"} for file in failures],
        "predictions": "out/predictions.npz",
        "runtime": "venv",
        "variant": "cpu",
        "device": "cpu",
        "seconds": {"dispatch": 1.5, "collect": 0.25},
    }


def test_a_run_that_went_well_is_three_cases() -> None:
    assert list_cases(GateResult("m", summary(), verdicts=(KEPT,))) == [
        Case("run", "run", seconds=1.75),
        Case("images", "all other images are predicted"),
        Case("rules", "failed-images:5"),
    ]


def test_failed_images_are_failures_only_where_a_rule_is_broken() -> None:
    broken = list_cases(GateResult("m", summary("a.jpg"), verdicts=(BROKEN,)))
    assert broken[1] == Case("images", "a.jpg", "failure", "image", "it is text")
    assert broken[-1] == Case("rules", "failed-images", "failure", "rule", "1 of 3 images failed")
    tolerated = list_cases(GateResult("m", summary("a.jpg"), verdicts=(KEPT,)))
    assert tolerated[1] == Case("images", "a.jpg", "skipped", "image", "it is text")
    assert [case.outcome for case in tolerated].count("failure") == 0


def test_a_run_that_failed_is_an_error_with_all_that_is_known() -> None:
    error = MachineError("no GPU", why="none is there", log="x.log", hint="orch doctor")
    assert list_cases(GateResult("m", error=error)) == [
        Case("run", "run", "error", "MachineError", "no GPU", "none is there\nlog: x.log\nnext: orch doctor")
    ]


def test_a_run_that_was_handed_over_is_skipped() -> None:
    (case,) = list_cases(GateResult("m"))
    assert (case.name, case.outcome) == ("run", "skipped")


def test_no_image_predicted_leaves_no_case_for_the_others() -> None:
    cases = list_cases(GateResult("m", summary("a", "b", "c"), verdicts=(BROKEN,)))
    assert [case.name for case in cases] == ["run", "a", "b", "c", "failed-images"]


def test_more_failures_than_a_report_can_hold_are_counted() -> None:
    failed = [f"{number}.jpg" for number in range(MAX_CASES + 3)]
    cases = list_cases(GateResult("m", summary(*failed, images=9000), verdicts=(BROKEN,)))
    assert len([case for case in cases if case.name.endswith(".jpg")]) == MAX_CASES
    assert "more failed images" in [case.name for case in cases]
    assert "3 more images failed" in cases[-3].message


# What both schemas, of Jenkins' xUnit plugin and of Ant, ask for.
SUITE = {"id", "package", "name", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time"}
ORDER = ["properties", "testcase", "system-out", "system-err"]


def check_structure(root: ElementTree.Element) -> None:
    """Assert what the schemas say: elements, their order, attributes, and that the counts are right."""
    assert (root.tag, root.attrib) == ("testsuites", {})
    for number, suite in enumerate(root):
        assert (suite.tag, set(suite.attrib), suite.get("id")) == ("testsuite", SUITE, str(number))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
        tags = [child.tag for child in suite]
        assert tags == sorted(tags, key=ORDER.index)
        assert [tags.count(tag) for tag in ("properties", "system-out", "system-err")] == [1, 1, 1]
        assert all(set(one.attrib) == {"name", "value"} for one in suite.iter("property"))
        cases = suite.findall("testcase")
        inside = [child.tag for case in cases for child in case]
        assert int(suite.attrib["tests"]) == len(cases)
        for tag, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(suite.attrib[count]) == inside.count(tag)
        for case in cases:
            assert set(case.attrib) == {"classname", "name", "time"}
            assert len(case) <= 1
            for one in case:
                assert set(one.attrib) == ({"message"} if one.tag == "skipped" else {"message", "type"})
        for timed in (suite, *cases):
            assert re.fullmatch(r"\d+\.\d{3}", timed.attrib["time"])


def test_the_document_is_what_the_schemas_ask_for(tmp_path: Path) -> None:
    nasty = "b & <c>\x00\x1b\ud800 \"'é😀.jpg"
    checked = [
        GateResult("m", summary(nasty), None, {"AP": 0.5, "APs": None}, (FigureChange("AP", 0.6, 0.5),), (BROKEN,)),
        GateResult("m+", summary("x.jpg"), verdicts=(KEPT,)),
        GateResult("third", error=MachineError("no <GPU>")),
    ]
    write_junit(tmp_path / "new" / "report.xml", checked)
    root = ElementTree.fromstring((tmp_path / "new" / "report.xml").read_bytes())
    check_structure(root)
    assert [suite.get("name") for suite in root] == ["m", "m+", "third"]
    assert root[0].findall("testcase")[1].get("name") == "b & <c>\\x00\\x1b\\xd800 \"'é😀.jpg"
    properties = {one.attrib["name"]: one.attrib["value"] for one in root[0].iter("property")}
    assert properties["orch"] == __version__
    assert (properties["AP"], properties["baseline AP"], "APs" in properties) == ("0.500000", "0.600000", False)
    assert (properties["device"], properties["images"]) == ("cpu", "3")


def test_the_document_says_when_and_where() -> None:
    (suite,) = build_document([GateResult("m", summary())], MOMENT, "")
    assert (suite.get("timestamp"), suite.get("hostname"), suite.get("time")) == (
        "2025-11-22T05:23:45",
        "localhost",
        "1.750",
    )


def test_what_xml_cannot_carry_is_written_as_an_escape() -> None:
    assert escape("a\x07b\ufffe\tc") == "a\\x07b\\xfffe\tc"


def test_the_summary_is_a_table_and_what_went_wrong() -> None:
    checked = GateResult("m", summary("a|b.jpg"), None, {"AP": 0.5}, (FigureChange("AP", 0.625, 0.5),), (BROKEN,))
    assert format_summary([checked]).splitlines() == [
        "### orch run",
        "",
        "| model | variant | device | images | failed | instances | images/s | AP | baseline | difference |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| m | cpu | cpu | 3 | 1 | 7 | 2.00 | 0.5000 | 0.6250 | −0.1250 |",
        "",
        "- **broken**: `failed-images` – 1 of 3 images failed",
        "",
        "<details><summary>m: 1 image failed</summary>",
        "",
        "| image | why |",
        "| --- | --- |",
        "| a\\|b.jpg | it is text |",
        "",
        "</details>",
        "",
    ]


def test_the_summary_of_a_run_that_failed_says_why() -> None:
    text = format_summary([GateResult("m", error=MachineError("no GPU", why="none <here>", hint="orch doctor"))])
    assert "| m | – | – | – | – | – | – | – | – | – |" in text
    assert "**m: no GPU**\n\nwhy: none &lt;here&gt;\n\nnext: orch doctor\n" in text


def test_the_verdicts_of_several_models_name_them() -> None:
    text = format_summary(
        [GateResult("a", summary(), verdicts=(KEPT,)), GateResult("b_c", summary("x"), verdicts=(BROKEN,))]
    )
    assert "- a: kept: `failed-images:5` – fine\n" in text
    assert "- b\\_c: **broken**: `failed-images` – 1 of 3 images failed\n" in text


def test_a_summary_stays_small_and_is_appended(tmp_path: Path) -> None:
    failed = [f"{number}.jpg" for number in range(SHOWN_FAILURES + 50)]
    target = tmp_path / "summary.md"
    target.write_text("before\n")
    append_summary(target, [GateResult("m", summary(*failed, images=200), verdicts=(BROKEN,))])
    text = target.read_text()
    assert text.startswith("before\n### orch run\n")
    assert text.count("| it is text |") == SHOWN_FAILURES
    assert "100 images failed, the first 50" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", "a b"), ("x" * 400, "x" * 300 + "…"), ("[l](u) <b>`", "\\[l\\](u) &lt;b&gt;\\`"), ("a_b*", "a\\_b\\*")],
)
def test_no_text_becomes_markup(text: str, shown: str) -> None:
    assert escape_cell(text) == shown
