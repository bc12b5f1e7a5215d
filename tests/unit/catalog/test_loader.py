"""The catalog: where stacks are looked for, and that every mistake in a stack.yaml names file, line and field."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.catalog.bundled import DOCKERFILES, STACKS
from orchestrator.catalog.loader import Catalog, load_catalog, read_stack
from orchestrator.catalog.spec import Defaults
from orchestrator.errors import OrchError, SpecError, UsageError
from tests.unit.stack_samples import MINIMAL, edited, model_entry, stack_document, stack_entry, write_stack

TEXT = yaml.safe_dump(MINIMAL, sort_keys=False)
WEIGHTS = "weights: {}"


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def spec_error(folder: Path, text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        read_stack(write_stack(folder, text))
    return caught.value


def test_all_built_in_stacks_are_read_and_whole() -> None:
    known = load_catalog()
    assert {"garments", "textlines"} <= set(known.stacks)
    for stack in known.stacks.values():
        assert stack.dockerfile.is_file()
        assert stack.folder.parent == STACKS
        assert all((stack.folder / variant.lock).is_file() for variant in stack.spec.variants.values())
        assert (stack.folder / stack.spec.predictor.partition(":")[0]).is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: A tiny stack", "titel: A tiny stack", "titel: unknown field (did you mean title?)"),
        ("    lock: cpu.lock", "    lock: cpu.lock\n    cudda: x", "unknown field (did you mean cuda?)"),
        ("    licence: MIT", "    licens: MIT", "licens: unknown field (did you mean licence?)"),
        ("- id: 7", "- idd: 7", "idd: unknown field (did you mean id?)"),
        ("    taxonomy: two", "    taxonomy: three", "tiny-model.taxonomy: 'three' is not one of taxonomies: two"),
        (WEIGHTS, "weights: {}\n    native: {class_map: [1, 9]}", "native.class_map: no category has the id 9"),
        (WEIGHTS, "weights: {}\n    native: {class_map: []}", "native.class_map: Tuple should have at least 1 item"),
        ("python: '3.11'", "python: 3.11", "variants.cpu.python: Input should be a valid string"),
        ("python: '3.11'", "python: '2.7'", "variants.cpu.python: String should match pattern"),
        ("python: '3.11'", "python: '3.11'\n    device: cuda", "variants.cpu.cuda: a variant with device cuda must"),
        ("lock: cpu.lock", "lock: ../cpu.lock", "variants.cpu.lock: must be a relative path that does not leave its"),
        ("lock: cpu.lock", "lock: /cpu.lock", "variants.cpu.lock: must be a relative path that does not leave its"),
        ("predictor.py:P", "../predictor.py:P", "predictor: must be a relative path that does not leave its folder"),
        ("predictor.py:P", "predictor:P", "predictor: String should match pattern"),
        ("id: 7", "id: 1", "taxonomies.two: category ids occur twice: [1]"),
        (WEIGHTS, "weights: {a: {file: x, licence: MIT}}", "bundled, path, url, package, manual; given: none"),
        (WEIGHTS, "weights: {a: {file: x, licence: MIT, url: u, manual: m}}", "manual; given: url, manual"),
        ("stack: tiny", "stack: Tiny", "stack: String should match pattern"),
        ("stack: tiny", "stack: tiny-", "stack: String should match pattern"),
        ("  cpu:", "  cpu+x:", "variants.cpu+x.[key]: String should match pattern"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = edited(TEXT, old, new)
    error = spec_error(tmp_path, text)
    place, _, said = error.message.partition(": ")
    assert message in said
    # What is about a whole mapping, or about a field that is missing, has the line of that mapping.
    where = {"    device: cuda": "  cpu:", "id: 1": "  two:"}.get(new.splitlines()[-1], new.splitlines()[-1])
    assert place == f"{tmp_path / 'stack.yaml'}:{line_of(text, where)}"


def test_lines_are_exact(tmp_path: Path) -> None:
    text = edited(TEXT, "    taxonomy: two", "    taxonomy: three")
    assert spec_error(tmp_path, text).message.startswith(f"{tmp_path}/stack.yaml:{line_of(text, 'three')}: ")
    text = edited(TEXT, "    name: seven", "    nam: seven")
    error = spec_error(tmp_path, text)
    assert error.message.startswith(f"{tmp_path}/stack.yaml:{line_of(text, 'nam: seven')}: ")
    assert f":{line_of(text, 'id: 7')}: taxonomies.two.categories.1.name: this field is missing" in str(error.why)


def test_a_stack_that_still_has_defaults_image_size_is_read(tmp_path: Path) -> None:
    text = edited(TEXT, WEIGHTS, "weights: {}\n    defaults: {image_size: 640, batch_size: 3}")
    assert read_stack(write_stack(tmp_path, text)).spec.models["tiny-model"].defaults == Defaults(batch_size=3)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = edited(edited(TEXT, "title: A tiny stack\n", ""), "lock: cpu.lock", "lok: cpu.lock")
    error = spec_error(tmp_path, text)
    assert "variants.cpu.lok: unknown field (did you mean lock?)" in error.message
    assert ":1: title: this field is missing" in str(error.why)
    assert "variants.cpu.lock: this field is missing" in str(error.why)
    assert error.exit_code == 2


def test_a_field_of_another_place_is_not_suggested(tmp_path: Path) -> None:
    error = spec_error(tmp_path, TEXT + "licence: MIT\n")
    assert error.message.endswith(": licence: unknown field")


def test_no_stacks_is_no_mapping(tmp_path: Path) -> None:
    assert "a stack.yaml is a mapping" in spec_error(tmp_path, "- 1\n").message
    assert "a stack.yaml is a mapping" in spec_error(tmp_path, "").message


def test_models_are_found_by_name_and_alias(tmp_path: Path) -> None:
    write_stack(tmp_path / "tiny", stack_document(models={"m": {**MINIMAL["models"]["tiny-model"], "aliases": ["mm"]}}))
    known = load_catalog([tmp_path])
    assert known.model("m") is known.model("mm")
    assert known.stack("mm") is known.stack("tiny") is known.model("m").stack
    assert known.model("m").class_map == (1, 7)


def test_an_unknown_name_brings_the_nearest(tmp_path: Path) -> None:
    write_stack(tmp_path / "tiny")
    known = load_catalog([tmp_path])
    with pytest.raises(UsageError, match="unknown model 'Tiny-modell'") as caught:
        known.model("Tiny-modell")
    assert caught.value.why == "did you mean tiny-model?"
    with pytest.raises(UsageError, match="unknown stack or model 'garment'") as caught:
        known.stack("garment")
    assert "garments" in str(caught.value.why)


def models(**aliases: list[str]) -> dict[str, Any]:
    return {name: {**MINIMAL["models"]["tiny-model"], "aliases": words} for name, words in aliases.items()}


@pytest.mark.parametrize(
    ("first", "second"),
    [(models(a=[]), models(a=[])), (models(a=["x"]), models(b=["x"])), (models(a=["b"]), models(b=[])),
     (models(a=[]), models(b=["a"])), (models(a=["a"]), models(b=[]))],
)  # fmt: skip
def test_two_models_of_one_name_are_refused(tmp_path: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    write_stack(tmp_path / "one", stack_document(stack="one", models=first))
    write_stack(tmp_path / "two", stack_document(stack="two", models=second))
    with pytest.raises(SpecError, match="two models are named") as caught:
        load_catalog([tmp_path])
    assert str(tmp_path / "one") in caught.value.message


def names(known: Catalog) -> set[str]:
    return set(known.stacks)


def test_stacks_come_from_the_option_the_variable_and_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = names(load_catalog())
    for place in ("option", "variable", "second", "config/orch/stacks"):
        name = place.rpartition("/")[2]
        write_stack(tmp_path / place / name, stack_document(stack=name, models=models(**{name: []})))
    monkeypatch.setenv("ORCH_STACKS", f"{tmp_path / 'variable'}{os.pathsep}{tmp_path / 'second'}{os.pathsep}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    expected = built_in | {"option", "variable", "second", "stacks"}
    assert names(load_catalog([tmp_path / "option"])) == expected
    assert names(load_catalog([tmp_path / "option" / "option"])) == expected, "a stack's own folder"
    assert names(load_catalog([tmp_path / "option", tmp_path / "option"])) == expected, "twice the same"


def test_a_folder_without_stacks_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="contains no stack"):
        load_catalog([tmp_path])
    with pytest.raises(UsageError, match=r"the folder of stacks .* does not exist"):
        load_catalog([tmp_path / "none"])
    monkeypatch.setenv("ORCH_STACKS", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"the folder of stacks .* does not exist"):
        load_catalog()


def test_two_stacks_of_one_name_are_refused(tmp_path: Path) -> None:
    write_stack(tmp_path / "tiny", stack_document(stack="garments"))
    with pytest.raises(SpecError, match="two stacks are named 'garments'"):
        load_catalog([tmp_path])


def test_the_dockerfile_lies_beside_the_stack_or_among_the_built_in_ones(tmp_path: Path) -> None:
    assert stack_entry(tmp_path / "a").dockerfile == tmp_path / "a" / "tiny.Dockerfile"
    built_in = stack_entry(tmp_path / "b", dockerfile="garments.Dockerfile").dockerfile
    assert built_in == DOCKERFILES / "garments.Dockerfile"
    with pytest.raises(SpecError, match=r"stack\.yaml: dockerfile: none is neither in"):
        _ = stack_entry(tmp_path / "c", dockerfile="none").dockerfile


SETTINGS = {
    "grey": {"default": 200, "minimum": 0, "maximum": 255, "help": "h"},
    "share": {"default": 0.5, "minimum": 0, "maximum": 1, "help": "h"},
    "fast": {"default": False, "help": "h"},
    "mode": {"default": "a", "choices": ["a", "b"], "help": "h"},
}


def test_settings_are_parsed_by_the_type_of_their_default(tmp_path: Path) -> None:
    entry = model_entry(tmp_path, settings=SETTINGS)
    assert entry.settings([]) == {"grey": 200, "share": 0.5, "fast": False, "mode": "a"}
    given = entry.settings(["grey=0", "share=1", "fast=Yes", "mode=b", "grey=+7"])
    assert given == {"grey": 7, "share": 1.0, "fast": True, "mode": "b"}
    assert [type(value) for value in given.values()] == [int, float, bool, str]


def test_the_published_recipe_is_a_named_set_of_settings(tmp_path: Path) -> None:
    entry = model_entry(tmp_path, settings=SETTINGS, recipe={"fast": True, "mode": "b"})
    assert entry.departures(entry.settings([])) == {"fast": True, "mode": "b"}
    published = entry.settings(["recipe=published", "grey=1"])
    assert published == {"grey": 1, "share": 0.5, "fast": True, "mode": "b"}
    assert entry.departures(published) == {}
    with pytest.raises(UsageError, match="no setting 'recipe'"):
        entry.settings(["recipe=other"])
    with pytest.raises(UsageError, match="no setting 'recipe'"):
        model_entry(tmp_path / "plain", settings=SETTINGS).settings(["recipe=published"])


@pytest.mark.parametrize("recipe", [{"none": 1}, {"mode": "c"}])
def test_a_recipe_that_no_setting_fits_is_refused(tmp_path: Path, recipe: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="recipe"):
        model_entry(tmp_path, settings=SETTINGS, recipe=recipe)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grey", "write it as name=value"),
        ("gray=1", "tiny-model has no setting 'gray'"),
        ("grey=1.5", "grey must be a whole number"),
        ("grey=256", "grey must be at most 255"),
        ("grey=-1", "grey must be at least 0"),
        ("share=x", "share must be a number"),
        ("share=nan", "share must be a number"),
        ("share=inf", "share must be a number"),
        ("fast=maybe", "fast must be true or false"),
        ("mode=c", "mode must be one of a, b"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        model_entry(tmp_path, settings=SETTINGS).settings([override])
    assert caught.value.message == f"--set {override}: {message}"


def test_errors_carry_their_exit_code_and_all_fields() -> None:
    error = UsageError("what", why="why", log=Path("log"), hint="next")
    assert isinstance(error, OrchError)
    assert error.as_json() == {"error": "UsageError", "exit_code": 2, "message": "what", "why": "why", "log": "log",
                               "hint": "next"}  # fmt: skip


def test_stacks_may_share_the_categories_that_come_with_orch(tmp_path: Path) -> None:
    shared = stack_entry(tmp_path / "a", taxonomies={"two": {"categories": "fashionpedia", "attributes": ["long"]}})
    taxonomy = shared.spec.taxonomies["two"]
    assert [one.id for one in taxonomy.categories] == list(range(46))
    assert (taxonomy.categories[23].name, taxonomy.attributes) == ("shoe", ("long",))
    with pytest.raises(
        SpecError, match=r"stack\.yaml:\d+: taxonomies\.two\.categories: unknown list of categories 'fashion'"
    ) as caught:
        stack_entry(tmp_path / "b", taxonomies={"two": {"categories": "fashion"}})
    assert "fashionpedia" in str(caught.value.why)
