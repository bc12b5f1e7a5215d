"""Documents that people write or get from elsewhere: each is read, or refused as orch's own error with its reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.catalog.loader import Catalog, load_catalog, read_stack
from orchestrator.errors import OrchError
from orchestrator.evaluation.coco.ground_truth import read_truth
from orchestrator.evaluation.localization.ground_truth import read_masks
from orchestrator.inputs.collect import collect_inputs
from orchestrator.workflows.comparison_file import EXAMPLE, read_comparison
from tests.hostile.fuzzing import damaged, fuzzed

STACKS = Path(__file__).parents[1] / "stacks"
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 1, 2**31, 2**63, 2**70, -0.0, 1e308, float("nan"), float("inf"), "", "a", "a\0b", "\ud800",
     "../x", "/", "~nobody/x", "\x1b[2J", "9" * 5000, [], {}, [[]], {"a": None}, [0, 0, 5], [-1.5, "x"], "*", "x" * 300]
)  # fmt: skip


@st.composite
def altered(draw: st.DrawFn, document: Any) -> Any:
    """A document with some values replaced, removed, doubled or moved."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(find_paths(document))
        *way, last = draw(st.sampled_from(paths))
        parent = document
        for part in way:
            parent = parent[part]
        action = draw(st.sampled_from(["replace", "replace", "remove", "copy", "add"]))
        if action == "remove":
            del parent[last]
        elif action == "copy":
            source = document
            for part in draw(st.sampled_from(paths)):
                source = source[part]
            parent[last] = copy.deepcopy(source)
        elif action == "add" and isinstance(parent, list):
            parent.append(copy.deepcopy(draw(ODD)))
        elif action == "add":
            parent[draw(st.sampled_from(["x", "", "a b"]))] = copy.deepcopy(draw(ODD))
        else:
            parent[last] = copy.deepcopy(draw(ODD))
        if not document:
            break
    return document


def find_paths(document: Any, start: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the keys that lead to each value."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    found: list[tuple[Any, ...]] = []
    for key, value in entries:
        found.append((*start, key))
        if isinstance(value, dict | list):
            found += find_paths(value, (*start, key))
    return found


def documents(document: Any, write: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    """Bytes of the document with other values in it, with damaged bytes, or nested deeply."""
    deep = st.sampled_from([b"[" * 3000, b'{"images":' * 3000, b"- " * 3000, b"\xef\xbb\xbf", b"\xff\xfe{}"])
    return st.one_of(altered(document).map(write), altered(document).map(write), damaged(write(document)), deep)


def dump_yaml(document: Any) -> bytes:
    return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")


def dump_json(document: Any) -> bytes:
    return json.dumps(document).encode()


def refuses(read: Callable[[], object]) -> bool:
    """Return whether reading ends with an error of orch's own, which must say something; no other may come."""
    refusal: OrchError | None = None
    try:
        read()
    except OrchError as error:
        refusal = error
    assert refusal is None or (refusal.message.strip() and refusal.exit_code != 70)
    return refusal is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog([STACKS])


STACK = yaml.safe_load((STACKS / "faulty" / "stack.yaml").read_text())
COMPARISON = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))


@given(documents(STACK, dump_yaml))
@fuzzed(150)
def test_a_stack_is_read_or_refused(folder: Path, content: bytes) -> None:
    (folder / "stack.yaml").write_bytes(content)
    refuses(lambda: read_stack(folder))


@given(documents(COMPARISON, dump_yaml))
@fuzzed(100)
def test_a_comparison_is_read_or_refused(folder: Path, catalog: Catalog, content: bytes) -> None:
    (folder / "orch.yaml").write_bytes(content)
    refuses(lambda: read_comparison(folder / "orch.yaml", catalog))


SQUARE = {"size": [20, 30], "counts": [25, 4, 16, 4, 551]}
COCO = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": 20, "width": 30},
        {"id": "two", "file_name": "b/c.png", "height": 20, "width": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3.5, 4], "area": 14.0, "iscrowd": 0,
         "segmentation": [[1, 1, 5, 1, 5, 6]]},
        {"id": 2, "image_id": "two", "category_id": 3, "bbox": [0, 0, 30, 20], "iscrowd": 1, "segmentation": SQUARE},
        {"id": 3, "image_id": 1, "category_id": 4, "bbox": [0, 0, 3, 2], "area": 6,
         "segmentation": {"size": [20, 30], "counts": "PPYo1"}},
    ],
    "categories": [{"id": 3, "name": "x"}, {"id": 4, "name": "y"}],
}  # fmt: skip


@given(documents(COCO, dump_json), st.sampled_from(["bbox", "segm"]))
@fuzzed(300)
def test_annotations_are_read_or_refused(folder: Path, content: bytes, iou: Any) -> None:
    path = folder / "annotations.json"
    path.write_bytes(content)
    refuses(lambda: read_truth(path, iou))


COUNTS = st.one_of(
    st.text(st.characters(min_codepoint=1, max_codepoint=200), max_size=30),
    st.lists(st.integers(-3, 700) | st.sampled_from([2**31, 2**32, 2**63, 2**70, 1.5, "1"]), max_size=8),
)
SIZES = st.lists(st.integers(-1, 40) | st.sampled_from([2**16, 2**31, 2**62, 2.0, "20"]), max_size=3)


@given(COUNTS, st.just([20, 30]) | SIZES)
@fuzzed(300)
def test_run_lengths_are_a_mask_of_the_image_or_refused(folder: Path, counts: Any, size: Any) -> None:
    document: Any = copy.deepcopy(COCO)
    document["annotations"][1]["segmentation"] = {"size": size, "counts": counts}
    path = folder / "masks.json"
    path.write_text(json.dumps(document))

    def read() -> None:
        masks = read_truth(path, "segm").masks
        assert masks is not None
        assert all(mask["size"] == [20, 30] for mask in masks)

    if not refuses(read):
        assert size == [20, 30]


SAMPLES: list[Any] = [["a.png", "b.png"], ["c.png", "Negative"]]
SETS: list[Any] = [["JsonDataset", "samples.json"], ["ManiDataset", "."]]


@given(st.one_of(*(documents(one, dump_json) for one in (COCO, SAMPLES, SETS, {"x": "samples.json"}))))
@fuzzed(200)
def test_a_list_of_images_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "samples.json"
    path.write_bytes(content)
    refuses(lambda: collect_inputs([str(path)], folder / "unpacked"))
    refuses(lambda: read_masks(path, ["a.png"]))


LINES = st.lists(st.sampled_from(["a.png", "../x.png", "", "#", "\0", "/", "~", "x" * 5000, "é.png", "\r"]), max_size=6)


@given(st.one_of(LINES.map("\n".join).map(str.encode), st.binary(max_size=60)))
@fuzzed(60)
def test_a_list_of_names_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "names.txt"
    path.write_bytes(content)
    refuses(lambda: collect_inputs([str(path)], folder / "unpacked"))
