"""Reading image files: regular ones within the limit, unchanged, hashed; and decoding within a time limit."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from orch_runner.decode_pool import DecodePool
from orch_runner.image_file import DecodeError, read_image_file


def test_a_file_is_read_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    state = (tmp_path / "a").stat()
    for size, mtime_ns in ((None, None), (state.st_size, state.st_mtime_ns)):
        file = read_image_file(tmp_path / "a", 7, size, mtime_ns)
        assert (file.data, file.sha256) == (b"content", hashlib.sha256(b"content").digest())


@pytest.mark.parametrize(("size", "mtime_ns"), [(6, None), (None, 1)])
def test_a_file_in_another_state_than_listed_is_refused(tmp_path: Path, size: int, mtime_ns: int) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with pytest.raises(DecodeError, match="changed after the images of this run were listed"):
        read_image_file(tmp_path / "a", 100, size, mtime_ns)


def test_a_sparse_file_and_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(6 << 30)
    os.mkfifo(tmp_path / "pipe")
    begun = time.monotonic()
    for name, why in (("sparse", "more than the limit of 1073741824"), ("pipe", "not a regular file"),
                      ("gone", "does not exist"), (".", "not a regular file")):  # fmt: skip
        with pytest.raises(DecodeError, match=why):
            read_image_file(tmp_path / name, 1 << 30, None, None)
    assert time.monotonic() - begun < 5


def test_an_image_beyond_the_time_limit_costs_no_other_image() -> None:
    release = threading.Event()
    pool: DecodePool[int] = DecodePool(1, 0.2)

    def wait_for_release() -> int:
        release.wait(30)
        return 0

    stuck, fine = pool.submit(wait_for_release), pool.submit(lambda: 1)
    assert pool.wait(stuck) is None
    assert pool.wait(fine) == 1
    release.set()
    pool.close()


def test_waiting_for_a_thread_does_not_count_as_decoding() -> None:
    pool: DecodePool[int] = DecodePool(1, 0.5)

    def slow() -> int:
        time.sleep(0.3)
        return 1

    tasks = [pool.submit(slow) for _ in range(4)]
    assert [pool.wait(task) for task in tasks] == [1, 1, 1, 1]
    pool.close()
