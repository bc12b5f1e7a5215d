"""`orch new stack`: what it writes is a stack that loads and a predictor that old Pythons can read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.catalog.scaffold import create_stack
from orchestrator.errors import UsageError
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs


def test_a_created_stack_is_whole(tmp_path: Path) -> None:
    folder = create_stack("my-stack", tmp_path / "stacks")
    assert folder == tmp_path / "stacks" / "my-stack"
    entry = load_catalog([tmp_path / "stacks"]).model("my-stack-example")
    assert entry.stack.folder == folder
    assert entry.stack.dockerfile == folder / "my-stack.Dockerfile"
    assert entry.settings(["threshold=10"]) == {"threshold": 10}
    inputs = build_inputs(entry.stack, "cpu", BuildOptions())
    assert "stack/predictor.py" in inputs.files
    assert "--hash=sha256:" in inputs.lock.read_text()
    assert not any("@NAME@" in path.read_text() or "NAME" in path.name for path in folder.iterdir())


def test_its_predictor_is_python_3_8(tmp_path: Path) -> None:
    folder = create_stack("mine", tmp_path)
    file, _, name = load_catalog([tmp_path]).stack("mine").spec.predictor.partition(":")
    tree = ast.parse((folder / file).read_text(), feature_version=(3, 8))
    assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("name", ["", "My", "1a", "a_b", "a.b", "../a", "a/b", "a-", "a--b", "ä", "a" * 41])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid stack name"):
        create_stack(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    create_stack("mine", tmp_path)
    with pytest.raises(UsageError, match="already exists"):
        create_stack("mine", tmp_path)
    with pytest.raises(UsageError, match="orch already has a built-in stack garments"):
        create_stack("garments", tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for parent in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="is not a folder"):
            create_stack("mine", parent)
