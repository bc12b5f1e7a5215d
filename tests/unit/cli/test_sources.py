"""`orch sources fetch` tells each step and each folder; a program gets JSON alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from orchestrator import catalog
from orchestrator.cli import main
from orchestrator.system import display

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded."""

    def ensure(stack: str, sources: Mapping[str, object], report: Callable[[str], None]) -> dict[str, Path]:
        for name in sources:
            report(f"fetching {name}")
        return {name: Path("/cache", stack, name) for name in sources}

    monkeypatch.setattr(catalog, "ensure_sources", ensure)


def test_steps_and_folders_are_told(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "PLAIN_EVERY_SECONDS", 0.0)
    (name,) = catalog.load_catalog().stacks["amrcnn"].spec.sources
    assert main(["sources", "fetch", "amrcnn"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"  fetching {name}", f"amrcnn: {name}: /cache/amrcnn/{name}"]


def test_a_program_gets_the_folders_alone(capsys: Captured) -> None:
    (name,) = catalog.load_catalog().stacks["amrcnn"].spec.sources
    assert main(["sources", "fetch", "amrcnn", "garments", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {"sources": {"amrcnn": {name: f"/cache/amrcnn/{name}"}, "garments": {}}}


def test_a_stack_without_sources_needs_none(capsys: Captured) -> None:
    assert main(["sources", "fetch", "garments"]) == 0
    assert capsys.readouterr().err == "these stacks need no upstream code\n"
