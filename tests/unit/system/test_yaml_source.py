"""YAML: nothing but plain values, no key twice, and lines for every place in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import SpecError
from orchestrator.system.yaml_source import YamlSource, describe_errors


def source(folder: Path, text: str | bytes) -> YamlSource:
    path = folder / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return YamlSource(path)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a: 1\nb: !!python/object/apply:os.system [echo]\n", 2, "could not determine a constructor for the tag"),
        ("a: !!python/name:os.system\n", 1, "could not determine a constructor for the tag"),
        ("a: [1\nb: 2\n", 2, "expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", 2, "found "),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "but found another document"),
        ("? {a: 1}\n: 2\n", 1, "found unhashable key"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(tmp_path: Path, text: str, line: int, why: str) -> None:
    with pytest.raises(SpecError) as caught:
        source(tmp_path, text)
    assert caught.value.message == f"{tmp_path / 'x.yaml'}:{line}: not valid YAML"
    assert why in str(caught.value.why)


@pytest.mark.parametrize("text", ["a: 2024-13-45\n", "a: \x01\n", b"a: \xff\n", "a: 2020-01-01 99:00:00\n"])
def test_values_that_cannot_be_are_spec_errors_too(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(SpecError):
        source(tmp_path, text)


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 200_000, "a: " + "{b: " * 200_000, "[" * 101 + "]" * 101])
def test_deep_nesting_is_refused_before_it_exhausts_the_stack(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError) as caught:
        source(tmp_path, text)
    assert caught.value.why == "it is nested too deeply"
    assert source(tmp_path, "[" * 100 + "]" * 100).value


def test_a_key_given_twice_is_refused_at_any_depth(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"x\.yaml:3: a: given twice in the same mapping"):
        source(tmp_path, "a: 1\nb: 2\na: 3\n")
    with pytest.raises(SpecError, match=r"x\.yaml:4: c: given twice"):
        source(tmp_path, "a:\n  - b: 1\n    c: 1\n    c: 2\n")


def test_a_missing_file_is_a_spec_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read"):
        YamlSource(tmp_path / "none.yaml")


def test_aliases_and_merges_work_and_a_bomb_of_them_ends(tmp_path: Path) -> None:
    assert source(tmp_path, "base: &b {x: 1}\nother: {<<: *b, y: 2}\n").value["other"] == {"x": 1, "y": 2}
    lines = ["a0: &a0 [1]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    source(tmp_path, "\n".join(lines))
    source(tmp_path, "a: &a [*a]\n")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert source(tmp_path, "\ufeffa: 1\n").value == {"a": 1}


def test_lines_lead_to_the_deepest_part_there_is(tmp_path: Path) -> None:
    found = source(tmp_path, "# x\na:\n  b:\n    - c: 1\n    - d: 2\n")
    location: tuple[str | int, ...] = ("a", "b", 1, "d")
    assert [found.line(location[:depth]) for depth in (1, 2, 3, 4)] == [2, 3, 5, 5]
    assert found.line(["a", "b", 9]) == 3
    assert found.line(["nothing"]) == 1
    assert source(tmp_path, "").line(["a"]) == 1


class Fields(BaseModel):
    """Two fields, one of which must be there."""

    model_config = ConfigDict(extra="forbid")
    name: str
    count: int = 0


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("count: 1\n", ":1: name", "this field is missing"),
        ("name: a\ncuont: 1\n", ":2: cuont", "unknown field (did you mean count?)"),
        ("name: a\nother: 1\n", ":2: other", "unknown field (known: count, name)"),
        ("name: a\ncount: b\n", ":2: count", "Input should be a valid integer"),
    ],
)
def test_an_error_names_line_field_and_fault(tmp_path: Path, text: str, place: str, words: str) -> None:
    read = source(tmp_path, text)
    with pytest.raises(ValidationError) as caught:
        Fields.model_validate(read.value)
    (line,) = describe_errors(caught.value, read, Fields)
    assert line.startswith(f"{tmp_path / 'x.yaml'}{place}: {words}")
