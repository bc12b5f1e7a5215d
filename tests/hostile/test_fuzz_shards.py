"""Whatever a worker leaves as a shard, part or picture: it is refused with a reason, or what is made of it is valid."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.predictions.collect import collect_shards
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import SHARD_FORMAT
from orchestrator.predictions.shard_check import ShardContent, ShardFault, ShardRules, check_picture, check_shard
from tests.hostile.fuzzing import damaged, fuzzed
from tests.unit.predictions.predictions_samples import FILES, META, sample_arrays

PLAN = "0" * 64
SIZE = (40, 50)
Arrays = dict[str, Any]


def sound_shard(images: int = len(FILES)) -> Arrays:
    """The arrays of a shard that keeps all rules."""
    arrays: Arrays = {name: array for name, array in sample_arrays().items() if name != "image_id"}
    meta = {"format": SHARD_FORMAT, "shard": 3, "plan": PLAN, "images": images}
    return {**arrays, "meta": np.array(json.dumps(meta))}


def rules() -> ShardRules:
    """What the shard must keep."""
    return ShardRules(PLAN, META, 2, True, 1_000_000)


def npz(arrays: Arrays) -> bytes:
    """The bytes of an .npz file, as the runner writes it."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def judge(folder: Path, content: bytes, *, is_part: bool = False) -> bool:
    """Check a shard; if it is accepted, what is made of it must be valid. Returns whether it was."""
    path = folder / "00003.npz"
    path.write_bytes(content)
    found: ShardContent | None = None
    fault = ShardFault("")
    try:
        found = check_shard(path, 3, FILES, rules(), is_part=is_part)
    except ShardFault as raised:
        fault = raised
    if found is None:
        assert str(fault.reason).strip()
        assert set(fault.images) <= set(range(len(FILES)))
        return False
    if is_part:
        assert found.images <= len(FILES)
        return True
    assert found.images == len(FILES)
    target = folder / "predictions.npz"
    collect_shards([path], ((file, number) for number, file in enumerate(FILES, 1)), META, target)
    predictions = Predictions.load(target)
    assert predictions.validate() == []
    check_values(predictions)
    return True


def check_values(predictions: Predictions) -> None:
    """What must hold of all that orch writes, by code that shares nothing with orch's own checks."""
    categories = {one["id"] for one in META["categories"]}
    for image in range(len(predictions)):
        height, width = (int(side) for side in predictions.image_size[image])
        rows = predictions.rows(image)
        assert rows.start == rows.stop or not predictions.status[image]
        scores = predictions.scores[rows].tolist()
        assert all(0 <= score <= 1 for score in scores)
        assert scores == sorted(scores, reverse=True)
        assert set(predictions.classes[rows].tolist()) <= categories
        for row in range(rows.start, rows.stop):
            x1, y1, x2, y2 = predictions.boxes[row].tolist()
            assert -0.01 <= x1 <= x2 <= width + 0.01
            assert -0.01 <= y1 <= y2 <= height + 0.01
            if not predictions.has_masks:
                continue
            runs = run_lengths(predictions.counts(row))
            assert all(length >= 0 for length in runs)
            assert sum(runs) == height * width


def run_lengths(counts: bytes) -> list[int]:
    """The lengths in COCO's compressed counts: five bits a character, from the third on relative to the one before."""
    lengths: list[int] = []
    at = 0
    while at < len(counts):
        value = shift = 0
        while True:
            digit = counts[at] - 48
            at += 1
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                break
        if digit & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


def test_the_sound_shard_is_accepted(folder: Path) -> None:
    assert judge(folder, npz(sound_shard()))


SOUND = npz(sound_shard())


@given(damaged(SOUND))
@fuzzed(150)
def test_damaged_bytes(folder: Path, content: bytes) -> None:
    judge(folder, content)
    judge(folder, content, is_part=True)


@given(damaged(SOUND))
@fuzzed(60)
def test_damaged_members_with_checksums_that_hold(folder: Path, content: bytes) -> None:
    """A guest can compute checksums: so the damage is in the arrays' own bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SOUND)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            whole = old.read(name)
            length = min(len(content), len(whole))
            changed = bytes(content[:length][::-1]) + whole[length:] if zlib.crc32(name.encode()) % 3 == 0 else whole
            new.writestr(name, changed)
    judge(folder, stream.getvalue())


special = st.sampled_from(
    [0, 1, -1, 255, 256, 2**31 - 1, -(2**31), 2**62, -(2**62), 0.5, 1e30, float("nan"), float("inf")]
)
dtypes = st.sampled_from(
    ["u1", "i1", "i4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i8", "c8", "?", "U1", "U5", "S3", "M8[s]", "V4"]
)


@st.composite
def changed_arrays(draw: st.DrawFn) -> Arrays:
    """A shard in which some arrays have other values, dtypes or shapes."""
    arrays = sound_shard()
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(arrays)))
        array = np.array(arrays[name])
        kind = draw(
            st.sampled_from(["value", "value", "value", "dtype", "cut", "repeat", "reshape", "drop", "reverse", "add"])
        )
        if kind == "value" and array.size and array.dtype.kind in "uif":
            flat = array.reshape(-1).copy()
            with np.errstate(all="ignore"):
                flat[draw(st.integers(0, flat.size - 1))] = np.array(draw(special)).astype(array.dtype)
            arrays[name] = flat.reshape(array.shape)
        elif kind == "value" and array.dtype.kind == "U" and array.size:
            values = array.reshape(-1).tolist()
            values[draw(st.integers(0, len(values) - 1))] = draw(st.text(max_size=30))
            arrays[name] = np.array(values).reshape(array.shape)
        elif kind == "dtype":
            try:
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
                    arrays[name] = array.astype(draw(dtypes))
            except (ValueError, TypeError):
                arrays[name] = np.zeros(array.shape, draw(dtypes))
        elif kind == "cut" and array.ndim:
            arrays[name] = array[: draw(st.integers(0, len(array)))]
        elif kind == "repeat" and array.ndim:
            arrays[name] = np.concatenate([array, array])
        elif kind == "reshape":
            arrays[name] = array.reshape(draw(st.sampled_from([(-1,), (1, -1), (-1, 1)])))
        elif kind == "drop":
            del arrays[name]
            if not arrays:
                break
        elif kind == "reverse" and array.ndim:
            arrays[name] = array[::-1]
        else:
            arrays[draw(st.text("abc/.", min_size=1, max_size=5))] = array
    return arrays


@given(changed_arrays())
@fuzzed(200)
def test_changed_arrays(folder: Path, arrays: Arrays) -> None:
    content = npz({f"{name}": array for name, array in arrays.items() if name != "file"})
    judge(folder, content)
    judge(folder, content, is_part=True)


@given(st.lists(st.binary(max_size=40), min_size=6, max_size=6))
@example([b""] * 6)
@example([b"\xff" * 40] * 6)
@fuzzed(150)
def test_masks_of_any_bytes(folder: Path, counts: list[bytes]) -> None:
    arrays = sound_shard()
    arrays["masks"] = np.frombuffer(b"".join(counts), np.uint8)
    arrays["mask_offsets"] = np.cumsum([0, *map(len, counts)], dtype=np.int64)
    judge(folder, npz(arrays))


@given(
    st.lists(
        st.text("0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmno", max_size=30),
        min_size=6,
        max_size=6,
    )
)
@fuzzed(100)
def test_masks_of_the_right_characters(folder: Path, counts: list[str]) -> None:
    arrays = sound_shard()
    data = [text.encode() for text in counts]
    arrays["masks"] = np.frombuffer(b"".join(data), np.uint8)
    arrays["mask_offsets"] = np.cumsum([0, *map(len, data)], dtype=np.int64)
    judge(folder, npz(arrays))


@given(st.lists(damaged(bytes(sound_shard()["masks"].tobytes()[:20])), min_size=6, max_size=6), st.integers(0, 5))
@fuzzed(150)
def test_masks_that_are_nearly_sound(folder: Path, counts: list[bytes], which: int) -> None:
    arrays = sound_shard()
    cuts, whole = arrays["mask_offsets"].tolist(), arrays["masks"].tobytes()
    data = [whole[start:end] for start, end in pairwise(cuts)]
    data[which] = data[which - 1] if len(counts[which]) % 3 == 0 else counts[which]
    arrays["masks"] = np.frombuffer(b"".join(data), np.uint8)
    arrays["mask_offsets"] = np.cumsum([0, *map(len, data)], dtype=np.int64)
    judge(folder, npz(arrays))


def picture() -> bytes:
    """An 8-bit grey PNG."""
    stream = io.BytesIO()
    Image.fromarray((np.arange(SIZE[0] * SIZE[1]) % 251).astype(np.uint8).reshape(SIZE)).save(stream, "PNG")
    return stream.getvalue()


PICTURE = picture()


@given(damaged(PICTURE))
@example(PICTURE)
@fuzzed(200)
def test_damaged_pictures(folder: Path, content: bytes) -> None:
    path = folder / "picture.png"
    path.write_bytes(content)
    try:
        check_picture(path, SIZE)
    except ValueError:
        is_refused = True
    else:
        is_refused = False
    if is_refused:
        assert content != PICTURE
        return
    with Image.open(path) as opened:
        assert (opened.format, opened.mode, opened.size) == ("PNG", "L", (SIZE[1], SIZE[0]))
        opened.load()
