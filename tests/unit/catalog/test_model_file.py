"""model.yaml: a model like another one, with weights of its own; every mistake names file, line and field."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.catalog.loader import Catalog, ModelEntry, load_catalog, read_model, read_stack
from orchestrator.catalog.scaffold import create_model, read_categories
from orchestrator.catalog.weights import add_weights, ensure_weights, known_digests, verify_weights, weights_state
from orchestrator.errors import MachineError, SpecError, UsageError
from orchestrator.paths import weights_folder
from orchestrator.plan import make_request
from orchestrator.plan.options import RunOptions
from orchestrator.plan.plan import all_parts
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from tests.unit.stack_samples import MINIMAL, stack_document, write_stack

PTH = b"PK\x03\x04"
SETTINGS = {"size": {"default": 640, "minimum": 32, "help": "side"}, "fast": {"default": False, "help": "f"}}
BASE = {
    **MINIMAL["models"]["tiny-model"],
    "aliases": ["tm"],
    "weights": {"pth": {"file": "w.pth", "licence": "MIT", "url": "https://example.org/w.pth", "sha256": "0" * 64}},
    "config": "configs/base.py",
    "native": {"class_base": 1, "class_map": [7, 1], "box_order": "yxyx"},
    "limits": {"max_detections": 100, "score_threshold": "size"},
    "defaults": {"score_threshold": 0.05, "attributes": True},
    "settings": SETTINGS,
    "notes": "about the base model",
}
TAXONOMIES = {"two": {**MINIMAL["taxonomies"]["two"], "attributes": ["red", "blue"]}}
OWN = """\
model: mine
like: tm
weights: mine.pth
categories: [shirt, shoe, hat]
settings: {size: 320}
defaults: {score_threshold: 0.3}
"""


def write_stacks(folder: Path, text: str = OWN, **base: Any) -> Path:
    """A folder of stacks: the stack tiny, and the model.yaml of `mine` with its weights."""
    write_stack(folder / "tiny", stack_document(models={"tiny-model": {**BASE, **base}}, taxonomies=TAXONOMIES))
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "model.yaml").write_text(text)
    (folder / "mine" / "mine.pth").write_bytes(PTH + b"my weights")
    return folder


def mine(folder: Path, text: str = OWN, **base: Any) -> ModelEntry:
    return load_catalog([write_stacks(folder, text, **base)]).model("mine")


def ensure(entry: ModelEntry) -> dict[str, Any]:
    return dict(ensure_weights(entry, offline=True, progress=lambda there, total: None))


def test_what_it_does_not_say_is_the_base_models(tmp_path: Path) -> None:
    entry = mine(tmp_path)
    base = load_catalog([tmp_path]).model("tiny-model")
    assert (entry.architecture, base.architecture) == ("tiny-model", "tiny-model")
    assert (entry.spec.limits, entry.spec.config) == (base.spec.limits, base.spec.config)
    assert (entry.spec.native.class_base, entry.spec.native.box_order) == (1, "yxyx")
    assert (entry.spec.aliases, entry.spec.notes) == ((), None)
    assert entry.settings([]) == {"size": 320, "fast": False}
    assert (base.settings([])["size"], base.class_map) == (640, (7, 1))
    assert entry.spec.defaults.model_dump() == {**base.spec.defaults.model_dump(), "score_threshold": 0.3}
    assert [(one.id, one.name) for one in entry.categories] == [(1, "shirt"), (2, "shoe"), (3, "hat")]
    assert (entry.class_map, entry.taxonomy.attributes) == ((1, 2, 3), ("red", "blue"))
    assert entry.stack.spec.taxonomies["two"].categories == base.categories


def test_it_runs_in_the_same_environment_with_a_weights_folder_of_its_own(tmp_path: Path) -> None:
    entry = mine(tmp_path)
    alone = read_stack(tmp_path / "tiny")
    assert build_inputs(entry.stack, "cpu", BuildOptions()) == build_inputs(alone, "cpu", BuildOptions())
    stored = ensure(entry)["pth"]
    assert stored.path == weights_folder("tiny", "mine") / "w.pth"
    assert stored.path.read_bytes() == PTH + b"my weights"
    assert (weights_state(entry, "pth"), known_digests(entry)) == ("present", {"pth": stored.sha256})


def test_changed_weights_are_noticed_and_copied_again(tmp_path: Path) -> None:
    entry = mine(tmp_path)
    file, first = tmp_path / "mine" / "mine.pth", ensure(entry)["pth"].sha256
    copied = (weights_folder("tiny", "mine") / "w.pth").stat().st_mtime_ns
    os.utime(file, ns=(1, 1))
    assert ensure(entry)["pth"].sha256 == known_digests(entry)["pth"] == first, "only its time changed"
    assert (weights_folder("tiny", "mine") / "w.pth").stat().st_mtime_ns == copied
    file.write_bytes(PTH + b"MY WEIGHTS")
    os.utime(file, ns=(2, 2))
    second = known_digests(entry)["pth"]
    assert second != first
    assert ensure(entry)["pth"].sha256 == second
    assert (weights_folder("tiny", "mine") / "w.pth").read_bytes() == PTH + b"MY WEIGHTS"
    assert verify_weights(entry) == [("pth", f"sha256 {second}", True)]


def test_weights_are_not_read_again_while_the_file_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = mine(tmp_path)
    digest = ensure(entry)["pth"].sha256
    monkeypatch.setattr("orchestrator.catalog.weights.sha256_of", lambda path: pytest.fail(f"read {path}"))
    assert known_digests(entry) == {"pth": digest}
    assert ensure(entry)["pth"].sha256 == digest


def test_weights_that_are_missing_or_no_weights(tmp_path: Path) -> None:
    entry = mine(tmp_path)
    file = tmp_path / "mine" / "mine.pth"
    file.write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(UsageError) as refused:
        ensure(entry)
    assert "it is a web page (21 bytes)" in str(refused.value.why)
    file.unlink()
    assert weights_state(entry, "pth") == "missing"
    for read in (ensure, known_digests):
        with pytest.raises(MachineError) as missing:
            read(entry)
        assert missing.value.why == f"{file} does not exist"
        assert str(tmp_path / "mine" / "model.yaml") in str(missing.value.hint)
    with pytest.raises(UsageError, match="cannot add the weights 'pth' of mine") as caught:
        add_weights(entry, tmp_path / "tiny" / "stack.yaml")
    assert str(file) in str(caught.value.why)


def test_an_own_configuration_file_is_among_the_weights(tmp_path: Path) -> None:
    entry = mine(tmp_path, OWN + "config: my_config.py\n")
    config = tmp_path / "mine" / "my_config.py"
    config.write_text("model = {}\n")
    stored = ensure(entry)
    assert set(stored) == {"pth", "config"}
    assert stored["config"].path == weights_folder("tiny", "mine") / "my_config.py"
    assert entry.spec.config == "configs/base.py", "so that the predictor knows where the own one belongs"
    before = known_digests(entry)
    config.write_text("model = {1}\n")
    assert known_digests(entry)["pth"] == before["pth"]
    assert known_digests(entry)["config"] != before["config"]


def test_a_run_depends_on_the_architecture(tmp_path: Path) -> None:
    two = {"tiny-model": BASE, "other": {**BASE, "aliases": []}}
    write_stacks(tmp_path)
    write_stack(tmp_path / "tiny", stack_document(models=two, taxonomies=TAXONOMIES))
    first = all_parts(load_catalog([tmp_path]).model("mine"), {})
    (tmp_path / "mine" / "model.yaml").write_text(OWN.replace("like: tm", "like: other"))
    assert all_parts(load_catalog([tmp_path]).model("mine"), {}) != first


def test_limits_are_inherited(tmp_path: Path) -> None:
    entry = mine(tmp_path, limits={"max_detections": 100})
    with pytest.raises(UsageError, match="mine returns at most 100 instances of an image"):
        make_request(entry, RunOptions(images=["x"], max_detections=101), "venv", "cpu", "cpu")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weights: mine.pth", "wieghts: mine.pth", "wieghts: unknown field (did you mean weights?)"),
        ("weights: mine.pth", "weights: [mine.pth]", "weights: Input should be a valid dictionary"),
        ("weights: mine.pth", "weights: {onnx: mine.pth}", "weights.onnx: tiny-model has no weights 'onnx'; it has p"),
        ("like: tm", "like: tn", "like: unknown model 'tn'"),
        ("like: tm", "like: 7", "like: Input should be a valid string"),
        ("model: mine", "model: Mine", "model: String should match pattern"),
        ("model: mine", "model: two", "model: a taxonomy of the stack tiny has this name; choose another one"),
        ("settings: {size: 320}", "settings: {sice: 320}", "settings.sice: tiny-model has no setting 'sice'"),
        ("settings: {size: 320}", "settings: {size: 3}", "settings.size: must be at least 32"),
        ("settings: {size: 320}", "settings: {fast: 2}", "settings.fast: must be true or false"),
        ("defaults: {score_threshold: 0.3}", "defaults: {score: 1}", "defaults.score: unknown field"),
        ("defaults: {score_threshold: 0.3}", "defaults: {score_threshold: 2}", "less than or equal to 1"),
        ("defaults: {score_threshold: 0.3}", "native: {class_map: [4]}", "native.class_map: no category has the id 4"),
        ("defaults: {score_threshold: 0.3}", "taxonomy: two", "taxonomy: give categories or a taxonomy, not both"),
        ("categories: [shirt, shoe, hat]", "categories: []", "categories: Value should have at least 1 item"),
        ("categories: [shirt, shoe, hat]", "categories: [{id: 1, nam: x}]", "categories.0.nam: unknown field (did you"),
        ("categories: [shirt, shoe, hat]", "categories: [{id: 1, name: x}, {id: 1, name: y}]", "occur twice: [1]"),
        ("categories: [shirt, shoe, hat]", "taxonomy: three", "taxonomy: 'three' is not one of two, fashionpedia"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = OWN.replace(old, new)
    assert text != OWN
    with pytest.raises(SpecError) as caught:
        mine(tmp_path, text)
    place, _, said = caught.value.message.partition(": ")
    assert message in said
    line = next(number for number, line in enumerate(text.splitlines(), 1) if line == new)
    assert place == f"{tmp_path / 'mine' / 'model.yaml'}:{line}"


@pytest.mark.parametrize(
    ("config", "message"),
    [(None, "config: tiny-model reads no configuration file"), ("b.py", "config: it has the name of the weights'")],
)
def test_a_configuration_file_that_cannot_be(tmp_path: Path, config: str | None, message: str) -> None:
    name = "mine.py" if config is None else "w.pth"
    with pytest.raises(SpecError) as caught:
        mine(tmp_path, OWN + f"config: {name}\n", config=config)
    assert message in caught.value.message


def test_a_taxonomy_that_comes_with_orch(tmp_path: Path) -> None:
    text = OWN.replace("categories: [shirt, shoe, hat]", "taxonomy: fashionpedia\nnative: {class_map: [0, 45]}")
    entry = mine(tmp_path, text)
    assert (len(entry.categories), entry.class_map, entry.spec.taxonomy) == (46, (0, 45), "fashionpedia")
    entry = mine(tmp_path, text.replace("native: {class_map: [0, 45]}", "attributes: []"))
    assert (len(entry.class_map), entry.taxonomy.attributes, entry.spec.taxonomy) == (46, (), "mine")
    assert not entry.spec.defaults.attributes


def test_several_models_on_one_stack_and_one_like_another(tmp_path: Path) -> None:
    write_stacks(tmp_path)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "model.yaml").write_text(OWN.replace("model: mine", "model: second"))
    known = load_catalog([tmp_path])
    assert {"tiny-model", "mine", "second"} <= set(known.models)
    assert known.model("second").stack is known.model("mine").stack is known.stack("tiny")
    (tmp_path / "second" / "model.yaml").write_text("model: second\nlike: mine\n")
    with pytest.raises(SpecError, match=r"model\.yaml:2: like: mine is itself like another model: name that one"):
        load_catalog([tmp_path])


def test_two_of_one_name_say_the_next_step(tmp_path: Path) -> None:
    write_stacks(tmp_path)
    for name in ("mine", "tm", "tiny-model", "garments-tiny"):
        (tmp_path / "mine" / "model.yaml").write_text(f"model: {name}\nlike: facere\n")
        with pytest.raises(SpecError, match=f"two models are named '{name}'") as caught:
            load_catalog([tmp_path, write_twin(tmp_path / "twin")] if name == "mine" else [tmp_path])
        assert "change the name in" in str(caught.value.hint)
    (tmp_path / "mine" / "model.yaml").unlink()
    write_stack(tmp_path / "again")
    with pytest.raises(SpecError, match="two stacks are named 'tiny'") as caught:
        load_catalog([tmp_path])
    assert "stack.yaml, or take its folder out of --stacks" in str(caught.value.hint)


def write_twin(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.yaml").write_text("model: mine\nlike: facere\n")
    return folder


def test_a_model_is_read_again_on_another_machine(tmp_path: Path) -> None:
    """As a task on a cluster does: from the stack's folder and the model.yaml."""
    entry = mine(tmp_path)
    again = read_model(entry.file, read_stack(entry.stack.folder))
    assert again.spec.models["mine"] == entry.spec
    assert again.spec.taxonomies["mine"] == entry.taxonomy


def create(known: Catalog, folder: Path, *weights: str, **options: Any) -> Path:
    named = {"categories": None, "config": None, **options}
    return create_model(known, "new", "tm", weights, named["categories"], named["config"], folder)


def test_a_created_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_catalog([write_stacks(tmp_path / "theirs")])
    (tmp_path / "best.pth").write_bytes(PTH)
    monkeypatch.chdir(tmp_path)
    file = create(known, Path("stacks"), "best.pth", categories="shirt, shoe")
    assert file == tmp_path / "stacks" / "new" / "model.yaml"
    document = yaml.safe_load(file.read_text())
    assert document == {
        "model": "new",
        "like": "tiny-model",
        "weights": "../../best.pth",
        "categories": ["shirt", "shoe"],
    }
    entry = load_catalog([tmp_path / "theirs", tmp_path / "stacks"]).model("new")
    assert entry.spec.weights["pth"].path == str(tmp_path / "best.pth")
    assert "# settings: {size: 640, fast: false}" in file.read_text()
    far = create_model(known, "far", "tm", [f"pth={tmp_path}/best.pth"], None, None, Path("/") / tmp_path / "s")
    monkeypatch.chdir("/")
    assert load_catalog([tmp_path / "theirs", tmp_path / "s"]).model("far").spec.weights["pth"].path
    assert far.is_file()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"abcd", "it does not begin like a PyTorch checkpoint: b'abcd', 4 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    ],
)
def test_what_is_no_weights_is_refused_before_anything_is_written(tmp_path: Path, content: bytes, words: str) -> None:
    known = load_catalog([write_stacks(tmp_path / "theirs")])
    (tmp_path / "best.pth").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        create(known, tmp_path / "stacks", str(tmp_path / "best.pth"))
    assert words in str(caught.value.why)
    assert not (tmp_path / "stacks").exists()


def test_other_mistakes_when_creating(tmp_path: Path) -> None:
    known = load_catalog([write_stacks(tmp_path / "theirs")])
    with pytest.raises(UsageError, match="does not exist"):
        create(known, tmp_path / "s", "none.pth")
    with pytest.raises(UsageError, match="unknown model 'tn'"):
        create_model(known, "new", "tn", [], None, None, tmp_path / "s")
    with pytest.raises(UsageError, match="there is a model mine already"):
        create_model(known, "mine", "tm", [], None, None, tmp_path / "s")
    with pytest.raises(UsageError, match="is not a valid model name"):
        create_model(known, "My Model", "tm", [], None, None, tmp_path / "s")
    with pytest.raises(UsageError, match="cannot write") as caught:
        create(known, tmp_path / "s", categories=str(write(tmp_path / "double.txt", "1:a\n1:b\n")))
    assert "occur twice" in str(caught.value.why)
    assert not list(tmp_path.glob("s/*"))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_categories_from_names_and_files(tmp_path: Path) -> None:
    assert read_categories("shirt, shoe,hat") == ["shirt", "shoe", "hat"]
    assert read_categories(str(write(tmp_path / "names.txt", "shirt\nblouse, long\n"))) == ["shirt", "blouse, long"]
    label_map = write(tmp_path / "label_map.csv", "0:background\n1:shirt, blouse\n4:shoe\n")
    assert read_categories(str(label_map)) == [{"id": 1, "name": "shirt, blouse"}, {"id": 4, "name": "shoe"}]
    truth = {"images": [], "categories": [{"id": 9, "name": "hat"}, {"id": 2, "name": "shoe", "supercategory": "x"}]}
    coco = write(tmp_path / "truth.json", json.dumps(truth))
    assert read_categories(str(coco)) == [{"id": 2, "name": "shoe"}, {"id": 9, "name": "hat"}]
    with pytest.raises(UsageError, match="has no list of categories"):
        read_categories(str(write(tmp_path / "bad.json", "{}")))


def test_the_settings_in_the_comments_are_those_of_the_base(tmp_path: Path) -> None:
    """Uncommented, they change nothing."""
    known = load_catalog([write_stacks(tmp_path / "theirs")])
    file = create(known, tmp_path / "stacks")
    text = file.read_text().replace("# settings:", "settings:")
    file.write_text(text)
    entry = load_catalog([tmp_path / "theirs", tmp_path / "stacks"]).model("new")
    assert entry.settings([]) == known.model("tm").settings([])
