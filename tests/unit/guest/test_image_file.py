"""Reading image files: regular ones within the limit, unchanged, hashed; and decoding within a time limit."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from orch_runner.decode_pool import DecodePool, Reserve
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
    pool: DecodePool[int] = DecodePool(1, 0.2, 100)

    def wait_for_release(reserve: Reserve) -> int:
        release.wait(30)
        return 0

    stuck, fine = pool.submit(wait_for_release), pool.submit(lambda reserve: 1)
    assert pool.wait(stuck) is None
    assert pool.wait(fine) == 1
    release.set()
    pool.close()


def test_waiting_for_a_thread_does_not_count_as_decoding() -> None:
    pool: DecodePool[int] = DecodePool(1, 0.5, 100)

    def slow(reserve: Reserve) -> int:
        time.sleep(0.3)
        return 1

    tasks = [pool.submit(slow) for _ in range(4)]
    assert [pool.wait(task) for task in tasks] == [1, 1, 1, 1]
    pool.close()


class Sized:
    """Work whose result takes so many bytes."""

    def __init__(self) -> None:
        self.done: list[int] = []
        """The results that were made, by their sizes."""

    def of(self, size: int) -> Callable[[Reserve], int]:
        def work(reserve: Reserve) -> int:
            reserve(size)
            self.done.append(size)
            return size

        return work


def test_results_that_nobody_waits_for_take_a_limited_number_of_bytes() -> None:
    pool: DecodePool[int] = DecodePool(4, 30, 100)
    sized = Sized()
    tasks = [pool.submit(sized.of(size)) for size in (40, 41, 42, 43, 44, 45)]
    time.sleep(0.3)
    assert sum(sized.done) <= 100
    assert len(sized.done) == 2
    results = []
    for task in tasks:
        results.append(pool.wait(task))
        time.sleep(0.05)
        assert sum(sized.done) - sum(results) <= 100
    assert results == [40, 41, 42, 43, 44, 45]
    pool.close()


def test_what_is_waited_for_is_done_whatever_its_size() -> None:
    pool: DecodePool[int] = DecodePool(2, 30, 100)
    sized = Sized()
    tasks = [pool.submit(sized.of(size)) for size in (90, 500, 300)]
    time.sleep(0.2)
    assert sized.done == [90]
    pool.need(tasks)
    assert [pool.wait(task) for task in tasks] == [90, 500, 300]
    pool.close()


def test_waiting_for_room_does_not_count_as_decoding() -> None:
    pool: DecodePool[int] = DecodePool(2, 0.3, 100)
    sized = Sized()
    first, second = pool.submit(sized.of(80)), pool.submit(sized.of(80))
    time.sleep(0.8)
    assert pool.wait(second) == 80, "its thread waited for longer than the limit"
    assert pool.wait(first) == 80
    pool.close()


def test_an_image_beyond_the_time_limit_gives_its_room_back() -> None:
    release = threading.Event()
    pool: DecodePool[int] = DecodePool(2, 0.2, 100)
    sized = Sized()

    def stick(reserve: Reserve) -> int:
        reserve(100)
        release.wait(30)
        return 0

    stuck, rest = pool.submit(stick), [pool.submit(sized.of(50)) for _ in range(2)]
    assert pool.wait(stuck) is None
    time.sleep(0.2)
    assert sized.done == [50, 50]
    release.set()
    assert [pool.wait(task) for task in rest] == [50, 50]
    pool.close()


def test_a_pool_that_is_closed_keeps_no_thread_waiting() -> None:
    pool: DecodePool[int] = DecodePool(2, 30, 10)
    sized = Sized()
    before = threading.active_count()
    for _ in range(3):
        pool.submit(sized.of(9))
    time.sleep(0.1)
    pool.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
