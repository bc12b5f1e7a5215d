"""The queue as a worker reads it: new shards in order, and the end mark that never hides a shard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from orch_runner import batches
from orch_runner.batches import Batch, BatchStream, ShardQueue
from orch_runner.contract import JobRefused
from orch_runner.image_file import DecodeError
from orch_runner.serving import active_job
from PIL import Image

from tests.unit.guest.job_samples import make_job, put_shard


def test_shards_come_by_number_and_each_once(tmp_path: Path) -> None:
    queue = ShardQueue(make_job(tmp_path), 1)
    put_shard(tmp_path, 12)
    put_shard(tmp_path, 3)
    taken = [queue.take_next() for _ in range(3)]
    assert [shard and shard.number for shard in taken] == [3, 12, None]
    assert not queue.has_ended, "no end mark yet"
    (tmp_path / "queue" / "end").touch()
    assert queue.take_next() is None
    assert queue.has_ended


def test_a_shard_written_just_before_the_end_mark_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host writes the last shard and the end mark right after the worker listed the queue."""
    queue = ShardQueue(make_job(tmp_path), 1)
    list_folder = Path.iterdir

    def list_and_be_late(path: Path) -> Iterator[Path]:
        names = list(list_folder(path))
        monkeypatch.setattr(Path, "iterdir", list_folder)
        put_shard(tmp_path, 7)
        (tmp_path / "queue" / "end").touch()
        return iter(names)

    monkeypatch.setattr(Path, "iterdir", list_and_be_late)
    assert queue.take_next() is None
    assert not queue.has_ended
    shard = queue.take_next()
    assert shard is not None
    assert shard.number == 7
    assert queue.take_next() is None
    assert queue.has_ended


@pytest.mark.parametrize("careful", [True, False])
def test_a_shard_of_the_other_kind_is_left_in_the_queue(tmp_path: Path, careful: bool) -> None:
    queue = ShardQueue(make_job(tmp_path), 1, careful)
    put_shard(tmp_path, 1, careful=not careful)
    assert queue.take_next() is None
    assert queue.is_other_kind
    assert queue.seen == set()
    put_shard(tmp_path, 0, careful=careful)
    shard = queue.take_next()
    assert shard is not None
    assert shard.number == 0
    assert not queue.is_other_kind


def withdraw_first(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Have the host take a shard back when the worker has listed the queue and is about to read the first file."""
    read = module.read_queued_shard

    def read_too_late(path: Path) -> Any:
        monkeypatch.setattr(module, "read_queued_shard", read)
        path.unlink()
        return read(path)

    monkeypatch.setattr(module, "read_queued_shard", read_too_late)


def test_a_shard_taken_back_before_it_is_read_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = ShardQueue(make_job(tmp_path), 1)
    put_shard(tmp_path, 1)
    put_shard(tmp_path, 2)
    (tmp_path / "queue" / "end").touch()
    withdraw_first(monkeypatch, batches)
    assert queue.take_next() is None
    assert not queue.has_ended, "a shard is left"
    shard = queue.take_next()
    assert shard is not None
    assert shard.number == 2


def test_a_first_shard_taken_back_before_it_is_read_refuses_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    put_shard(tmp_path, 1)
    withdraw_first(monkeypatch, active_job)
    assert not active_job.starts_careful(job)
    put_shard(tmp_path, 1)
    put_shard(tmp_path, 2, careful=True)
    withdraw_first(monkeypatch, active_job)
    assert active_job.starts_careful(job), "the next shard counts"
    (tmp_path / "queue" / "00000.json").write_text("{")
    with pytest.raises(JobRefused):
        active_job.starts_careful(job)


def test_decoded_images_ahead_take_a_limited_number_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the batch that is asked for; more threads decode no more ahead."""
    size, count = 30 * 40 * 3, 12
    job = make_job(tmp_path, batch_size=1, readers=8)
    monkeypatch.setattr(batches, "AHEAD_BYTES", 3 * size)
    decoded: list[str] = []
    decode = batches.decode_content

    def counted(data: bytes, *arguments: Any) -> Any:
        pixels = decode(data, *arguments)
        decoded.append("")
        return pixels

    monkeypatch.setattr(batches, "decode_content", counted)
    files = tuple(f"{at:02d}.png" for at in range(count))
    for at, file in enumerate(files):
        Image.new("RGB", (40, 30), (at, 0, 0)).save(tmp_path / "data" / file)
    put_shard(tmp_path, 0, files)
    (tmp_path / "queue" / "end").touch()
    stream = BatchStream(job, ShardQueue(job, 1), "pillow", "RGB", 1)
    seen: list[int] = []
    for batch in stream.read(lambda: False):
        if not isinstance(batch, Batch):
            continue
        time.sleep(0.1)
        assert len(decoded) - len(seen) <= 3
        for one in batch.decoded():
            assert not isinstance(one, DecodeError)
            seen.append(int(one.pixels[0, 0, 0]))
    stream.close()
    assert seen == list(range(count))
