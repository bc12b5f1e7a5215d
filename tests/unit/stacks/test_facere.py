"""What the stack facere says of itself; its own code is tested in its environment, by the conformance tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from orchestrator.catalog.loader import ModelEntry, load_catalog
from orchestrator.catalog.spec import ModelName, Name

STACK = Path(__file__).resolve().parents[3] / "images" / "facere"
FASHIONFAIL = (0, 1, *range(3, 12), 13, 14, 15, 17, 18, *range(21, 27))
"""Category id of each native class of facere+, as its authors' evaluation maps them."""


def model(name: str) -> ModelEntry:
    return load_catalog([]).model(name)


@pytest.mark.parametrize("alias", ["facere+", "facere_plus", "facere-plus"])
def test_facere_plus_goes_by_all_its_names(alias: str) -> None:
    assert model(alias).name == "facere+"


def test_class_maps() -> None:
    assert model("facere_base").class_map == tuple(range(46))
    assert model("facere+").class_map == FASHIONFAIL
    assert [model(name).spec.native.class_base for name in ("facere", "facere+")] == [1, 1]


def test_nothing_is_dropped_unless_asked_for_as_published() -> None:
    for name in ("facere", "facere+"):
        assert (model(name).spec.defaults.score_threshold, model(name).spec.defaults.max_detections) == (None, None)


def test_both_models_name_the_categories_alike() -> None:
    names = {one.id: one.name for one in model("facere").categories}
    assert names == {one.id: one.name for one in model("facere+").categories}
    assert (len(names), names[0], names[26], names[45]) == (46, "shirt, blouse", "umbrella", "tassel")


def test_graphs_without_weights_are_small() -> None:
    files = list((STACK / "structures").glob("*.onnx.gz"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < 100_000


@pytest.mark.parametrize("name", ["a+b", "+", "+a", "a+-b"])
def test_a_plus_ends_a_models_name_or_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ModelName).validate_python(name)


def test_stacks_have_no_plus_because_images_may_not() -> None:
    assert TypeAdapter(ModelName).validate_python("facere+") == "facere+"
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python("facere+")
