"""The JUnit report: a suite per model; cases for the run, failed images, the others, and rules.

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

from orchestrator.evaluation import FailedImages, GateResult
from orchestrator.system import __version__, printable, write_text

MAX_CASES = 1000  # failed images with a case of their own; summary.json has all
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PROPERTIES = ("runtime", "variant", "device", "images", "predicted", "failed", "instances", "predictions")


@dataclass(frozen=True)
class Case:
    """One testcase; `outcome` is the element inside it, None if it passed."""

    group: str
    name: str
    outcome: Literal["failure", "error", "skipped"] | None = None
    kind: str = ""
    message: str = ""
    detail: str = ""
    seconds: float = 0.0


def list_cases(result: GateResult) -> list[Case]:
    """Return a model's cases.

    Failed images that the rules tolerate are reported as skipped, so that a CI system agrees with the exit code.
    """
    cases = [_make_run_case(result), *_make_image_cases(result)]
    for verdict in result.verdicts:
        if verdict.is_broken:
            cases.append(Case("rules", verdict.rule, "failure", "rule", verdict.message))
        else:
            cases.append(Case("rules", verdict.rule))
    return cases


def _make_run_case(result: GateResult) -> Case:
    seconds = _total_seconds(result)
    if result.error is None and result.summary is None:
        return Case("run", "run", "skipped", message="the run continues on the cluster; to follow it: orch attach RUN")
    if result.error is None:
        return Case("run", "run", seconds=seconds)
    error = result.error
    lines = [error.why, error.log and f"log: {error.log}", error.hint and f"next: {error.hint}"]
    detail = "\n".join(line for line in lines if line)
    return Case("run", "run", "error", type(error).__name__, error.message, detail, seconds)


def _make_image_cases(result: GateResult) -> Iterator[Case]:
    if result.summary is None:
        return
    failures = result.summary["failures"]
    verdicts = [verdict for verdict in result.verdicts if verdict.rule.startswith(str(FailedImages()))]
    is_tolerated = bool(verdicts) and not any(verdict.is_broken for verdict in verdicts)
    outcome: Literal["failure", "skipped"] = "skipped" if is_tolerated else "failure"
    for failure in failures[:MAX_CASES]:
        yield Case("images", failure["image_file"], outcome, "image", failure["error"])
    if len(failures) > MAX_CASES:
        message = f"{len(failures) - MAX_CASES} more images failed: summary.json has them all"
        yield Case("images", "more failed images", outcome, "image", message)
    if result.summary["predicted"] or not failures:
        yield Case("images", "all other images are predicted")


def _total_seconds(result: GateResult) -> float:
    return 0.0 if result.summary is None else float(sum(result.summary["seconds"].values()))


def build_document(results: Sequence[GateResult], end: float, host: str) -> ElementTree.Element:
    """Return the XML document of runs that ended at `end` (seconds since the epoch) on `host`."""
    root = ElementTree.Element("testsuites")
    for number, result in enumerate(results):
        root.append(_build_suite(number, result, end, host))
    return root


def _build_suite(number: int, result: GateResult, end: float, host: str) -> ElementTree.Element:
    cases = list_cases(result)
    counts = {outcome: sum(case.outcome == outcome for case in cases) for outcome in ("failure", "error", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        {
            "id": str(number),
            "package": "orch",
            "name": escape(result.model),
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(end)),
            "hostname": escape(host) or "localhost",
            "tests": str(len(cases)),
            "failures": str(counts["failure"]),
            "errors": str(counts["error"]),
            "skipped": str(counts["skipped"]),
            "time": f"{_total_seconds(result):.3f}",
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _list_properties(result):
        ElementTree.SubElement(properties, "property", {"name": name, "value": escape(value)})
    for case in cases:
        suite.append(_build_case(result.model, case))
    for name in ("system-out", "system-err"):
        ElementTree.SubElement(suite, name)
    return suite


def _list_properties(result: GateResult) -> Iterator[tuple[str, str]]:
    yield "orch", __version__
    for name in _PROPERTIES:
        if result.summary is not None and name in result.summary:
            yield name, str(result.summary[name])
    for name, value in result.figures.items():
        if value is not None:
            yield name, f"{value:.6f}"
    for change in result.changes:
        if change.baseline is not None:
            yield f"baseline {change.name}", f"{change.baseline:.6f}"


def _build_case(model: str, case: Case) -> ElementTree.Element:
    element = ElementTree.Element(
        "testcase",
        {"classname": escape(f"{model}.{case.group}"), "name": escape(case.name), "time": f"{case.seconds:.3f}"},
    )
    if case.outcome is not None:
        attributes = {"message": escape(case.message)}
        if case.outcome != "skipped":  # Ant's schema has no type there
            attributes["type"] = case.kind
        ElementTree.SubElement(element, case.outcome, attributes).text = escape(case.detail or case.message)
    return element


def escape(text: str) -> str:
    """Write control characters and what XML cannot hold, which file names can have, as escapes; keep lines."""
    lines = "\n".join(map(printable, text.split("\n")))
    return _NOT_XML.sub(lambda match: f"\\x{ord(match.group()):02x}", lines)


def write_junit(path: Path, results: Sequence[GateResult]) -> None:
    """Write the report in one step. Raises OSError."""
    root = build_document(results, time.time(), socket.gethostname())
    ElementTree.indent(root)
    write_text(path, f"<?xml version='1.0' encoding='utf-8'?>\n{ElementTree.tostring(root, encoding='unicode')}\n")
