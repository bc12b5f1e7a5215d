"""The layout of the code: packages, doors, names. Layers and circles are import-linter's, in pyproject.toml."""

from __future__ import annotations

import ast
import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = ROOT / "orchestrator"
GUEST = ROOT / "images" / "runner" / "orch_runner"
PACKAGES = sorted(path.parent.name for path in HOST.glob("*/__init__.py"))
DOORS = [name for name in PACKAGES if name != "cli"]
HEAVY = {
    "docker",
    "hotcoco",
    "jinja2",
    "numpy",
    "pandas",
    "PIL",
    "pycocotools",
    "pynvml",
    "requests",
    "rich",
    "supervision",
    "uv",
}
"""Third-party libraries that take long to import, or that may be missing: imported inside functions."""


def modules(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node


def test_there_are_twelve_packages_and_at_most_six_files() -> None:
    assert len(PACKAGES) == 12
    assert len(list(HOST.glob("*.py"))) <= 6


@pytest.mark.parametrize("package", DOORS)
def test_a_door_offers_what_its_modules_have_under_names_that_no_module_has(package: str) -> None:
    folder = HOST / package
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    offered = {
        alias.name: node.module for node in imports(tree) if node.module != "orchestrator._lazy" for alias in node.names
    }
    offered.pop("TYPE_CHECKING")
    inside = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert not inside & set(offered)
    door = importlib.import_module(f"orchestrator.{package}")
    for name, module in offered.items():
        assert getattr(door, name) is getattr(importlib.import_module(str(module)), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        door.nothing  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_other_packages_are_imported_by_their_doors(package: str) -> None:
    deep = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.module}"
        for path, tree in modules(HOST / package)
        for node in imports(tree)
        for top, *rest in [str(node.module).split(".")[1:] or [""]]
        if str(node.module).startswith("orchestrator.") and top in DOORS and top != package and rest
    ]
    assert deep == []


def test_no_two_classes_share_a_name() -> None:
    names = Counter(
        node.name
        for folder in (HOST, GUEST)
        for _, tree in modules(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def late_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and module of each import inside a function."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in {inner for function in functions for inner in ast.walk(function)}:
        if isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def test_imports_stand_at_the_top_but_for_start_up_and_heavy_libraries() -> None:
    allowed = HEAVY | set(sys.stdlib_module_names)
    late = [
        f"{path.relative_to(ROOT)}:{line} {module}"
        for path, tree in modules(HOST)
        # __main__ prepares for signals before it imports the command line.
        if path.parent.name != "cli" and path not in (HOST / "__init__.py", HOST / "__main__.py")
        for line, module in late_imports(tree)
        if module.split(".")[0] not in allowed
        # Workers start before numpy is loaded, which these need: docs/decisions/0008-doors-and-imports.md
        if not (module == "orchestrator.predictions" and path.parts[-2] in ("dispatch", "plan"))
    ]
    assert sorted(late) == []
