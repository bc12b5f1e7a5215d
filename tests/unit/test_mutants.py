"""The tool that puts small faults into the code: its faults apply, are drawn by seed, and leave the rest as it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants import __main__ as tool
from tests.mutants.sites import find_sites

SOURCE = '''
"""1 < 2"""
from __future__ import annotations
LIMIT: Literal[3] = 0.5
@dataclass(frozen=True)
class A: pass
def grün(a: int = 4, *, keep: bool = True) -> Literal[5]:
    if a < 6 and not keep:
        print("ä", min(a, 7))
    return f"{a < 8}"
'''


def test_faults_are_found_where_they_change_what_the_code_does() -> None:
    changed = {
        (site.kind, SOURCE[site.start : site.end].splitlines()[0], site.new.splitlines()[0])
        for site in find_sites(SOURCE)
    }
    assert changed == {
        ("number", "0.5", "0.75"),
        ("number", "4", "5"),
        ("number", "6", "7"),
        ("number", "7", "8"),
        ("flag", "True", "False"),
        ("comparison", "a < 6", "a <= 6"),
        ("and/or", "a < 6 and not keep", "(a < 6 or not keep)"),
        ("negated condition", "a < 6 and not keep", "(not (a < 6 and (not keep)))"),
        ("removed not", "not keep", "(keep)"),
        ("dropped statement", 'print("ä", min(a, 7))', "pass"),
        ("min/max", "min", "max"),
    }


@pytest.mark.parametrize("package", tool.PACKAGES)
def test_drawn_faults_are_python_and_the_same_for_a_seed(package: str) -> None:
    drawn = tool.draw(package, seed=7, each=10)
    assert drawn == tool.draw(package, seed=7, each=10)
    assert drawn != tool.draw(package, seed=8, each=10)
    assert len({(one.file, one.start, one.new) for one in drawn}) == 10
    for one in drawn:
        source = (tool.ROOT / one.file).read_text(encoding="utf-8")
        assert source[one.start :].startswith(one.old)
        assert one.line in source
        ast.parse(source[: one.start] + one.new + source[one.start + len(one.old) :])


def test_the_fixed_faults_are_still_in_the_code() -> None:
    for one in tool.known():
        source = (tool.ROOT / one.file).read_text(encoding="utf-8")
        ast.parse(source[: one.start] + one.new + source[one.start + len(one.old) :])
        assert all((tool.ROOT / path).is_file() for path in one.tests)


def test_results_are_replaced_by_package_and_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "RESULTS", tmp_path / "results.md")
    first, second = tool.draw("plan", 1, 2), tool.draw("cli", 1, 1)
    monkeypatch.setattr(tool, "EQUIVALENT", {second[0].describe(): "no difference"})
    tool.record("plan", "Seed 1", first, ["survived", "survived"])
    tool.record("cli", "Seed 1", second, ["equivalent"])
    tool.record("plan", "Seed 1", first, ["killed", "survived"])
    text = tool.RESULTS.read_text(encoding="utf-8")
    assert "3 faults: 1 killed, 1 survived, 1 equivalent (no observable difference)." in text
    assert text.index("## plan") < text.index("## cli")
    assert f"- killed: {first[0].describe()}\n" in text
    assert f"- equivalent: {second[0].describe()} (no difference)" in text
