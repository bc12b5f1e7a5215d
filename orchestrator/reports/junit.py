"""The JUnit report: a suite per model; in it a case for the run, for each image that failed, for the rest, per rule.

Valid by the schemas of Jenkins' xUnit plugin and of Ant's JUnitReport, which are stricter than what CI systems read.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from orchestrator import __version__
from orchestrator.evaluation.gate.gate import Checked
from orchestrator.evaluation.gate.rules import FailedImages
from orchestrator.system.files import write_text

MOST_CASES = 1000
"""Images with a case of their own; summary.json has all."""
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PROPERTIES = ("runtime", "variant", "device", "images", "predicted", "failed", "instances", "predictions")


@dataclass(frozen=True)
class Case:
    """One testcase; `outcome` None: passed, else the element inside it."""

    group: str
    name: str
    outcome: Literal["failure", "error", "skipped"] | None = None
    kind: str = ""
    message: str = ""
    detail: str = ""
    seconds: float = 0.0


def cases_of(checked: Checked) -> list[Case]:
    """A model's cases. Images that may fail by the rules are skipped, not failed, so that a CI system agrees with the
    exit code."""
    cases = [_run_case(checked), *_image_cases(checked)]
    for verdict in checked.verdicts:
        if verdict.broken:
            cases.append(Case("rules", verdict.rule, "failure", "rule", verdict.message))
        else:
            cases.append(Case("rules", verdict.rule))
    return cases


def _run_case(checked: Checked) -> Case:
    seconds = _seconds(checked)
    if checked.error is None and checked.summary is None:
        return Case("run", "run", "skipped", message="it was handed over and goes on: orch attach")
    if checked.error is None:
        return Case("run", "run", seconds=seconds)
    error = checked.error
    lines = [error.why, error.log and f"log: {error.log}", error.hint and f"next: {error.hint}"]
    detail = "\n".join(line for line in lines if line)
    return Case("run", "run", "error", type(error).__name__, error.message, detail, seconds)


def _image_cases(checked: Checked) -> Iterator[Case]:
    if checked.summary is None:
        return
    failures = checked.summary["failures"]
    of_images = [one for one in checked.verdicts if one.rule.startswith(str(FailedImages()))]
    tolerated = bool(of_images) and not any(one.broken for one in of_images)
    outcome: Literal["failure", "skipped"] = "skipped" if tolerated else "failure"
    for failure in failures[:MOST_CASES]:
        yield Case("images", failure["image_file"], outcome, "image", failure["error"])
    if len(failures) > MOST_CASES:
        message = f"{len(failures) - MOST_CASES} more images failed: summary.json has them all"
        yield Case("images", "more failed images", outcome, "image", message)
    if checked.summary["predicted"] or not failures:
        yield Case("images", "all other images are predicted")


def _seconds(checked: Checked) -> float:
    return 0.0 if checked.summary is None else float(sum(checked.summary["seconds"].values()))


def report(checked: Sequence[Checked], moment: float, host: str) -> ElementTree.Element:
    """The whole document, of runs that ended at `moment` (seconds since the epoch) on `host`."""
    root = ElementTree.Element("testsuites")
    for number, one in enumerate(checked):
        root.append(_suite(number, one, moment, host))
    return root


def _suite(number: int, checked: Checked, moment: float, host: str) -> ElementTree.Element:
    cases = cases_of(checked)
    counts = {outcome: sum(case.outcome == outcome for case in cases) for outcome in ("failure", "error", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        {
            "id": str(number),
            "package": "orch",
            "name": clean(checked.model),
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)),
            "hostname": clean(host) or "localhost",
            "tests": str(len(cases)),
            "failures": str(counts["failure"]),
            "errors": str(counts["error"]),
            "skipped": str(counts["skipped"]),
            "time": f"{_seconds(checked):.3f}",
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(checked):
        ElementTree.SubElement(properties, "property", {"name": name, "value": clean(value)})
    for case in cases:
        suite.append(_element(checked.model, case))
    for name in ("system-out", "system-err"):
        ElementTree.SubElement(suite, name)
    return suite


def _properties(checked: Checked) -> Iterator[tuple[str, str]]:
    yield "orch", __version__
    for name in _PROPERTIES:
        if checked.summary is not None and name in checked.summary:
            yield name, str(checked.summary[name])
    for name, value in checked.figures.items():
        if value is not None:
            yield name, f"{value:.6f}"
    for change in checked.changes:
        if change.baseline is not None:
            yield f"baseline {change.name}", f"{change.baseline:.6f}"


def _element(model: str, case: Case) -> ElementTree.Element:
    element = ElementTree.Element(
        "testcase",
        {"classname": clean(f"{model}.{case.group}"), "name": clean(case.name), "time": f"{case.seconds:.3f}"},
    )
    if case.outcome is not None:
        attributes = {"message": clean(case.message)}
        if case.outcome != "skipped":  # Ant's schema has no type there
            attributes["type"] = case.kind
        ElementTree.SubElement(element, case.outcome, attributes).text = clean(case.detail or case.message)
    return element


def clean(text: str) -> str:
    """Text as XML can carry it: what it cannot, of odd file names, is written as an escape."""
    return _NOT_XML.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def write_junit(path: Path, checked: Sequence[Checked]) -> None:
    """Write the report in one step. Raises OSError."""
    root = report(checked, time.time(), socket.gethostname())
    ElementTree.indent(root)
    write_text(path, f"<?xml version='1.0' encoding='utf-8'?>\n{ElementTree.tostring(root, encoding='unicode')}\n")
