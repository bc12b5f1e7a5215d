"""inputs.jsonl: written in a stream, any slice read without the rest, the same lines as ever."""

from __future__ import annotations

import hashlib
import json
from array import array
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator.inputs.manifest import STRIDE, Images, InputImage, InputRow, open_inputs, read_inputs, write_images
from orchestrator.inputs.record_buffer import RecordBuffer, repeated_hashes


def rows(count: int) -> list[InputRow]:
    """Odd names, errors and truths among them."""
    names = ["a b.jpg", 'quote"\\.png', "猫.png", "new\nline.jpg", '"error": "x.jpg', "caf\\xe9.jpg"]
    return [
        (
            f"{number}/{names[number % len(names)]}", "" if number % 5 == 4 else f"0/{number}\udce9.jpg",
            2 * number + 1, number, 10**18 + number, "no such file" if number % 5 == 4 else None,
            "Negative" if number % 3 == 0 else None, 'a "set"' if number % 6 == 0 else None,
        )
        for number in range(count)
    ]  # fmt: skip


def expected(count: int) -> list[InputImage]:
    return [InputImage(index, *row) for index, row in enumerate(rows(count))]


@pytest.fixture(params=[1, STRIDE - 1, STRIDE, STRIDE + 1, 3 * STRIDE + 7])
def count(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["unsaved", "saved", "opened"])
def images(request: pytest.FixtureRequest, count: int, tmp_path: Path) -> Images:
    written = write_images(rows(count), tmp_path)
    if request.param == "unsaved":
        return written
    written.save(tmp_path / "inputs.jsonl")
    return written if request.param == "saved" else open_inputs(tmp_path / "inputs.jsonl", written.digest)


def test_any_slice_is_what_a_list_would_give(images: Images, count: int) -> None:
    wanted = expected(count)
    assert len(images) == count
    assert list(images) == wanted
    assert images == wanted
    assert images != wanted[:-1]
    assert images != [*wanted[:-1], InputImage(0, "other", "", 0, 0, 0)]
    for start in range(0, count + 2, 5):
        for stop in (start, start + 1, start + STRIDE, count, count + 9, -1):
            assert images[start:stop] == tuple(wanted[start:stop])
            if stop >= 0:
                assert images.bytes_in(start, stop) == sum(image.size for image in wanted[start:stop])
    assert images[::-7] == tuple(wanted[::-7])
    assert (images[0], images[-1]) == (wanted[0], wanted[-1])
    with pytest.raises(IndexError):
        images[count]


def test_errors_are_counted_and_the_digest_is_that_of_names_and_sizes(images: Images, count: int) -> None:
    wanted = expected(count)
    assert images.unreadable == sum(image.error is not None for image in wanted)
    text = "".join(f"{image.file}\0{image.size}\n" for image in wanted)
    assert images.digest == hashlib.sha256(text.encode()).hexdigest()


def test_lines_are_what_json_writes(tmp_path: Path) -> None:
    write_images(rows(200), None).save(tmp_path / "inputs.jsonl")
    fields = [asdict(image) for image in expected(200)]
    for image in fields:
        if image["data_set"] is None:
            del image["data_set"]
    wanted = "".join(json.dumps(image) + "\n" for image in fields)
    assert (tmp_path / "inputs.jsonl").read_text() == wanted
    assert list(read_inputs(tmp_path / "inputs.jsonl")) == expected(200)
    assert [path.name for path in tmp_path.iterdir()] == ["inputs.jsonl"], "long lists leave no file behind"


def test_a_list_too_long_for_memory_is_read_as_well(tmp_path: Path) -> None:
    wanted = expected(60_000)
    images = write_images(rows(60_000), tmp_path)
    assert list(tmp_path.iterdir()) == [], "kept in a file without a name"
    assert images[59_900:] == tuple(wanted[59_900:])
    assert images[100:105] == tuple(wanted[100:105])
    assert sum(1 for _ in images) == 60_000


def test_lines_are_compared_with_those_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "inputs.jsonl"
    write_images(rows(100), None).save(path)
    again = write_images(rows(100), None)
    assert again.is_saved_as(path)
    assert list(again) == expected(100)
    assert not write_images(rows(99), None).is_saved_as(path)
    assert not write_images(rows(101), None).is_saved_as(path)
    assert list(write_images(rows(101), None)) == expected(101)


def test_records_come_back_in_order_as_often_as_asked(tmp_path: Path) -> None:
    records = [(f"/in/{n}\udce9.jpg", None, n, 2**60 + n, None, n, None, None) for n in range(9_000)]
    spool = RecordBuffer(tmp_path)
    spool.extend(records[:5_000])
    spool.extend(iter(records[5_000:]))
    assert list(spool) == records
    assert list(spool) == records


@pytest.mark.parametrize("others", [3, 200_000])
def test_hashes_met_twice_are_found_in_few_and_in_many(others: int) -> None:
    hashes = array("q", [-(2**63), 5, *range(10, 10 + others), 5, 2**63 - 1, -7, -(2**63), 5])
    assert repeated_hashes(hashes) == {5, -(2**63)}
    assert repeated_hashes(array("q", range(others))) == set()
