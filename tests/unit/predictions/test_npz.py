"""Streaming npz: same bytes each time, nothing half-written, nothing unpickled, damage reported as ours."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from orchestrator.errors import OrchError, PredictionsError, UsageError
from orchestrator.predictions import npz
from orchestrator.predictions.npz import NpzWriter, open_arrays
from tests.unit.durability import durable_steps, record_syncs


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.zeros((0, 4), np.float32),
        np.array(["a", "grün/ß.jpg", ""]),
        np.array("scalar text"),
        np.zeros((5, 0), np.int64),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
    ],
    ids=["rows", "empty", "text", "scalar", "no columns", "fortran"],
)
def test_numpy_reads_back_what_is_written(tmp_path: Path, array: Any, compress: bool) -> None:
    with NpzWriter(tmp_path / "x.npz", compress) as writer:
        writer.write_array("array", array)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as loaded:
        assert loaded["array"].dtype == array.dtype
        np.testing.assert_array_equal(loaded["array"], array)
    np.testing.assert_array_equal(open_arrays(tmp_path / "x.npz")["array"], array)


def test_bytes_do_not_depend_on_chunks_or_time(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 7, 3 * npz.BLOCK + 17).astype(np.uint8)
    for name, step in (("a", len(data)), ("b", 100_003)):
        with NpzWriter(tmp_path / name, compress=True) as writer, writer.array("x", data.shape, data.dtype) as out:
            for start in range(0, len(data), step):
                out.write(data[start : start + step])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.parametrize("rows", [2, 4])
def test_a_wrong_number_of_rows_leaves_the_old_file(tmp_path: Path, rows: int) -> None:
    target = tmp_path / "x.npz"
    target.write_bytes(b"old")
    with (
        pytest.raises(ValueError, match=f"{rows} rows were written, 3 announced"),
        NpzWriter(target, compress=True) as writer,
        writer.array("x", (3,), np.int64) as out,
    ):
        out.write(np.zeros(rows, np.int64))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("chunk", [np.zeros((1, 3), np.float32), np.zeros(4, np.float32), np.zeros((1, 4), np.float64)])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, chunk: Any) -> None:
    with (
        pytest.raises((ValueError, TypeError), match=r"rows of shape|Cannot cast"),
        NpzWriter(tmp_path / "x.npz", compress=False) as writer,
        writer.array("x", (1, 4), np.float32) as out,
    ):
        out.write(chunk)
    assert not list(tmp_path.iterdir())


def test_object_arrays_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="object arrays"), NpzWriter(tmp_path / "x.npz", compress=False) as writer:
        writer.write_array("x", np.array([{}], dtype=object))


def test_the_permissions_follow_the_umask(tmp_path: Path) -> None:
    with NpzWriter(tmp_path / "x.npz", compress=False) as writer:
        writer.write_array("x", np.zeros(1))
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_arrays_and_headers_are_read_when_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(10), b=np.zeros((2, 3), np.uint8))
    arrays = open_arrays(tmp_path / "x.npz")
    assert list(arrays) == ["a", "b"]
    assert len(arrays) == 2
    assert arrays.header("b").shape == (2, 3)
    assert [chunk.tolist() for chunk in arrays.chunks("a", nbytes=32)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    np.testing.assert_array_equal(arrays["a"], np.arange(10))
    arrays["a"][0] = 5  # what is read may be written to
    with pytest.raises(KeyError):
        arrays["c"]


def test_chunks_of_columns_in_memory_order_are_right(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(12).reshape(4, 3))
    np.savez(tmp_path / "x.npz", a=array)
    np.testing.assert_array_equal(np.concatenate(list(open_arrays(tmp_path / "x.npz").chunks("a", 8))), array)


class Bomb:
    """Leaves a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", data=np.array([Bomb(tmp_path / "ran")], dtype=object))
    with pytest.raises(PredictionsError) as caught:
        open_arrays(tmp_path / "x.npz")["data"]
    assert "pickled" in str(caught.value.why)
    assert caught.value.hint == f"orch validate {tmp_path / 'x.npz'}"
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        open_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_zip_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(PredictionsError, match="cannot read"):
        open_arrays(tmp_path / "x.npz")
    with pytest.raises(PredictionsError, match="cannot read"):
        open_arrays(tmp_path)


def test_a_header_that_promises_too_much_allocates_nothing(tmp_path: Path) -> None:
    with NpzWriter(tmp_path / "x.npz", compress=True) as writer, writer.member("a.npy") as stream:
        npy.write_array_header_1_0(stream, {"descr": "<i8", "fortran_order": False, "shape": (1 << 50,)})
    with pytest.raises(PredictionsError) as caught:
        open_arrays(tmp_path / "x.npz")["a"]
    assert "the file has 0" in str(caught.value.why)


@pytest.mark.parametrize("compress", [True, False])
def test_truncation_and_flipped_bytes_never_pass_or_crash(tmp_path: Path, compress: bool) -> None:
    array = np.random.default_rng(1).integers(0, 50, 3000).astype(np.int32)
    path = tmp_path / "x.npz"
    with NpzWriter(path, compress) as writer:
        writer.write_array("a", array)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(PredictionsError):
            open_arrays(path)["a"]
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = open_arrays(path)["a"]
        except (OrchError, KeyError):
            continue
        np.testing.assert_array_equal(found, array)  # the byte was one that says nothing, such as a date


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", b"")
    with pytest.raises(PredictionsError):
        open_arrays(tmp_path / "x.npz")


def test_an_archive_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "predictions.npz"
    steps = record_syncs(monkeypatch, target)
    with NpzWriter(target, compress=True) as writer:
        writer.write_array("x", np.arange(1000))
    assert steps == durable_steps(target)
