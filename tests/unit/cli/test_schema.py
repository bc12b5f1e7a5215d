"""JSON Schemas: they are valid, they take the files that orch ships and writes, and refuse mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from orchestrator.cli import main
from orchestrator.cli.schema import FILES, make_schema

ROOT = Path(__file__).parents[3]
Captured = pytest.CaptureFixture[str]


def errors_in(name: str, document: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(make_schema(name)).iter_errors(document)]


@pytest.mark.parametrize("name", FILES)
def test_a_schema_is_valid_and_printed(name: str, capsys: Captured, tmp_path: Path) -> None:
    assert main(["schema", name]) == 0
    printed = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(printed)
    assert main(["schema", name, "-o", str(tmp_path / "schema.json")]) == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == printed
    assert "yaml-language-server" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((ROOT / "images").glob("*/stack.yaml")), ids=lambda file: file.parent.name)
def test_stacks_that_orch_ships_keep_to_it(file: Path) -> None:
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert errors_in("stack.yaml", document) == []
    assert errors_in("stack.yaml", {**document, "predictr": "x"})


def test_what_new_writes_keeps_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "comparison"]) == 0
    document = yaml.safe_load(Path("orch.yaml").read_text(encoding="utf-8"))
    assert errors_in("orch.yaml", document) == []
    assert errors_in("orch.yaml", {**document, "models": []}) or errors_in("orch.yaml", {**document, "modles": 1})
    assert main(["new", "stack", "mine"]) == 0
    assert errors_in("stack.yaml", yaml.safe_load(Path("stacks/mine/stack.yaml").read_text(encoding="utf-8"))) == []
    Path("w.onnx").write_bytes(b"\x08\x08" + bytes(2000))
    if main(["new", "model", "my-tiny", "--like", "garments-tiny", "--weights", "w.onnx"]) == 0:
        (written,) = tmp_path.rglob("model.yaml")
        assert errors_in("model.yaml", yaml.safe_load(written.read_text(encoding="utf-8"))) == []


def test_an_unknown_file_is_an_error_with_a_suggestion(capsys: Captured) -> None:
    assert main(["schema", "stack.yml"]) == 2
    assert "stack.yaml" in capsys.readouterr().err
