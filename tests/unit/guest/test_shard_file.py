"""Shard files: what is written is read back, and it outlives a power cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from orch_runner.shard_file import read_part, shard_path, write_rows
from orch_runner.shard_rows import ShardRow, make_failed_row

from tests.unit.durability import durable_steps, record_syncs
from tests.unit.guest.job_samples import make_job


def sample_rows(count: int) -> list[ShardRow]:
    return [
        ShardRow(
            f"{number}.png",
            (4, 5),
            boxes=np.full((number, 4), number, np.float32),
            classes=np.arange(number, dtype=np.int32),
            scores=np.linspace(1, 0.5, number, dtype=np.float32),
            masks=[b"x" * (row + 1) for row in range(number)],
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("part", [True, False])
def test_a_shard_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: bool) -> None:
    job = make_job(tmp_path)
    steps = record_syncs(monkeypatch, shard_path(job.out, 3, part))
    target = write_rows(job, 3, sample_rows(3), part)
    assert target == shard_path(job.out, 3, part)
    assert steps == durable_steps(target)


def test_a_part_file_is_read_back_and_only_for_the_shard_and_files_it_was_written_for(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    rows = [*sample_rows(3), make_failed_row("bad.png", "no\nimage", (7, 8))]
    files = [row.file for row in rows]
    write_rows(job, 3, rows, part=True)
    again = read_part(job, 3, [*files, "later.png"])
    assert [(row.file, row.size, row.error, row.masks or []) for row in again] == [
        (row.file, row.size, row.error, row.masks or []) for row in rows
    ]
    assert again[3].error == "no image"
    for name in ("boxes", "classes", "scores"):
        for row, wanted in zip(again, rows, strict=True):
            np.testing.assert_array_equal(getattr(row, name), getattr(wanted, name))
    assert read_part(job, 3, ["other.png", *files[1:]]) == []
    assert read_part(job, 3, files[:2]) == []
    assert read_part(make_job(tmp_path, plan="sha256:2"), 3, files) == []
    shard_path(job.out, 3, part=True).rename(shard_path(job.out, 4, part=True))
    assert read_part(job, 4, files) == []
    assert read_part(job, 3, files) == []
