"""A folder's run is used again only for what it holds; --update predicts what changed and keeps the rest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.paths import RunPaths
from orchestrator.plan import update
from orchestrator.predictions import ShardRows, write_rows
from orchestrator.runtimes.registry import RUNTIMES
from tests.unit.conftest import MakePhoto
from tests.unit.plain_runtime import PlainRuntime

STACK = Path(__file__).parents[2] / "stacks" / "faulty"


class Folder:
    """Images, a copy of a stack, and runs of it."""

    def __init__(self, root: Path, photo: MakePhoto, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._photo, self._capsys = root, photo, capsys
        shutil.copytree(STACK, root / "stacks" / "faulty")
        for number in range(12):
            self.add(f"{number:02}.png", 40 + number)

    def add(self, name: str, side: int) -> Path:
        return self._photo(self.root / "in" / name, (side, 60))

    def run(self, out: str | None = "out", *more: str, batch_size: int = 1, model: str = "faulty") -> tuple[int, Any]:
        """Run the model; return the exit code and what it printed as JSON."""
        arguments = ["-m", model, "-i", str(self.root / "in"), "--batch-size", str(batch_size), "--shard-size", "4"]
        where = [] if out is None else ["-o", str(self.root / out)]
        code = main(
            ["run", *arguments, *where, *more, "--runtime", "plain", "--stacks", str(self.root / "stacks"), "--json"]
        )
        return code, json.loads(self._capsys.readouterr().out)

    def predictions(self, out: str) -> bytes:
        return (self.root / out / "predictions.npz").read_bytes()


@pytest.fixture
def folder(
    tmp_path: Path, photo: MakePhoto, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Folder:
    monkeypatch.setattr(PlainRuntime, "folder", tmp_path)
    monkeypatch.setitem(RUNTIMES, "plain", PlainRuntime)
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path, photo, capsys)


def replace_content(path: Path) -> None:
    """Change one byte of the pixels, neither size nor time."""
    state = path.stat()
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


Change = Callable[[Folder], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "new": (lambda folder: folder.add("99.png", 50), "images: 1 new (99.png)"),
    "gone": (lambda folder: (folder.root / "in" / "03.png").unlink(), "images: 1 gone (03.png)"),
    "replaced": (lambda folder: folder.add("05.png", 90), "images: 1 changed (05.png)"),
    "same size": (lambda folder: replace_content(folder.root / "in" / "05.png"), "images: 1 changed (05.png)"),
    "predictor": (
        lambda folder: append(folder.root / "stacks" / "faulty" / "predictor.py", "# edited\n"),
        "other predictor",
    ),
}


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES.keys())
def test_a_complete_run_of_something_else_is_refused(folder: Folder, change: Change, why: str) -> None:
    assert folder.run()[0] == 0
    before = folder.predictions("out")
    change(folder)
    code, printed = folder.run()
    assert (code, printed["message"], printed["why"]) == (
        2,
        f"{folder.root / 'out'} holds predictions of something else",
        why,
    )
    assert folder.predictions("out") == before
    assert folder.run()[0] == 2, "and again"


def test_other_build_arguments_are_another_model(folder: Folder) -> None:
    assert folder.run()[0] == 0
    code, printed = folder.run("out", "--base-image", "debian:12")
    assert (code, printed["why"]) == (2, "other build arguments")


def test_files_that_only_have_another_time_are_the_same(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder.run()[0] == 0
    for path in (folder.root / "in").iterdir():
        os.utime(path, (1, 1))
    assert folder.run()[0] == 0
    monkeypatch.setattr("orchestrator.plan.changes.hashlib", None)  # the new times were recorded
    assert folder.run()[0] == 0


def test_the_next_default_folder_is_taken(folder: Folder) -> None:
    first = Path(folder.run(None)[1]["predictions"])
    folder.add("99.png", 50)
    second = folder.run(None)[1]
    assert (second["images"], Path(second["predictions"]).parent) == (13, Path(f"{first.parent}-2"))
    assert folder.run(None)[1]["predictions"] == second["predictions"], "complete already"
    (folder.root / "in" / "99.png").unlink()
    assert folder.run(None)[1]["predictions"] == str(first)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES.keys())
def test_an_update_gives_the_bytes_of_a_fresh_run(folder: Folder, change: Change, why: str, batch_size: int) -> None:
    del why
    assert folder.run(batch_size=batch_size)[0] == 0
    change(folder)
    code, printed = folder.run("out", "--update", batch_size=batch_size)
    assert (code, printed["failed"]) == (0, 0)
    assert folder.run("fresh", batch_size=batch_size)[0] == 0
    assert folder.predictions("out") == folder.predictions("fresh")
    assert folder.run(batch_size=batch_size)[1]["seconds"] == printed["seconds"], "complete already"


@pytest.mark.parametrize(
    ("name", "batch_size", "kept"),
    [
        ("99.png", 1, 12), ("99.png", 4, 12), ("000.png", 1, 10), ("000.png", 2, 0), ("055.png", 1, 11),
        ("055.png", 2, 6), ("055.png", 4, 4),
    ],
)  # fmt: skip
def test_a_row_is_kept_where_its_batch_keeps_its_images(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, name: str, batch_size: int, kept: int
) -> None:
    seen: list[int] = []
    original = update.update_run

    def counting(*arguments: Any) -> int:
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr("orchestrator.workflows.run.update_run", counting)
    folder.run(batch_size=batch_size)
    folder.add(name, 50)
    assert folder.run("out", "--update", batch_size=batch_size)[0] == 0
    assert seen == [kept]
    folder.run("fresh", batch_size=batch_size)
    assert folder.predictions("out") == folder.predictions("fresh")


@pytest.mark.parametrize("at", range(9))
def test_an_update_that_is_interrupted_is_completed(folder: Folder, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    assert folder.run()[0] == 0
    folder.add("055.png", 50)
    calls = 0

    def stop(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                raise KeyboardInterrupt
            return original(*arguments, **named)

        return wrapped

    with monkeypatch.context() as patched:
        for module in ("update", "run_directory"):
            for name in ("remove", "write_json"):
                target = f"orchestrator.plan.{module}.{name}"
                patched.setattr(target, stop(getattr(__import__(f"orchestrator.plan.{module}", fromlist=["x"]), name)))
        patched.setattr("orchestrator.plan.run_directory.os.replace", stop(os.replace))
        folder.run("out", "--update")
    code, printed = folder.run("out", "--update")
    assert (code, printed["images"], printed["failed"]) == (0, 13, 0)
    folder.run("fresh")
    assert folder.predictions("out") == folder.predictions("fresh")
    assert not RunPaths(folder.root / "out").update.exists()


def test_an_interrupted_run_keeps_what_was_done(folder: Folder) -> None:
    assert folder.run()[0] == 0
    paths = RunPaths(folder.root / "out")
    for path in (paths.summary, paths.predictions, paths.shard(1)):
        path.unlink()
    folder.add("99.png", 50)
    assert folder.run()[0] == 2
    assert folder.run("out", "--update")[0] == 0
    folder.run("fresh")
    assert folder.predictions("out") == folder.predictions("fresh")


def test_another_request_is_refused_with_update_too(folder: Folder) -> None:
    assert folder.run()[0] == 0
    code, printed = folder.run("out", "--update", "--score-threshold", "0.9")
    assert (code, printed["message"]) == (2, f"{folder.root / 'out'} belongs to another request")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_mask_that_was_changed_is_predicted_again(folder: Folder, damage: Callable[[Path], None]) -> None:
    assert folder.run(model="faulty-forged")[0] == 0
    mask = folder.root / "out" / "masks" / "05.png.png"
    before, complete = mask.read_bytes(), folder.run(model="faulty-forged")[1]
    damage(mask)
    code, printed = folder.run(model="faulty-forged")
    assert (code, printed["seconds"] != complete["seconds"]) == (0, True)
    assert mask.read_bytes() == before
    assert folder.run(model="faulty-forged")[1] == printed, "complete already"


def test_an_update_keeps_masks(folder: Folder) -> None:
    assert folder.run(model="faulty-forged")[0] == 0
    (folder.root / "in" / "03.png").unlink()
    folder.add("99.png", 50)
    assert folder.run("out", "--update", model="faulty-forged")[0] == 0
    assert folder.run("fresh", model="faulty-forged")[0] == 0
    assert folder.predictions("out") == folder.predictions("fresh")
    masks = [
        {path.name: path.read_bytes() for path in (folder.root / out / "masks").iterdir()} for out in ("out", "fresh")
    ]
    assert masks[0] == masks[1]
    assert len(masks[0]) == 12


def swap_shards(paths: RunPaths) -> None:
    """Let the files of two shards change places."""
    paths.shard(0).rename(paths.root / "aside")
    paths.shard(1).rename(paths.shard(0))
    (paths.root / "aside").rename(paths.shard(1))


def other_plan(paths: RunPaths) -> None:
    """Let a shard be one of another run of the same images."""
    shard = ShardRows(paths.shard(0))
    shard.arrays["scores"][:] = 0.5
    write_rows(paths.shard(0), 0, "f" * 64, [(shard, position) for position in range(4)])


@pytest.mark.parametrize("damage", [swap_shards, other_plan, lambda paths: cut(paths.shard(0))])
def test_rows_that_are_not_what_they_stand_for_are_not_kept(folder: Folder, damage: Callable[[RunPaths], None]) -> None:
    assert folder.run()[0] == 0
    damage(RunPaths(folder.root / "out"))
    folder.add("99.png", 50)
    assert folder.run("out", "--update")[0] == 0
    assert folder.run("fresh")[0] == 0
    assert folder.predictions("out") == folder.predictions("fresh")


def test_an_update_does_not_keep_a_mask_that_was_changed(folder: Folder) -> None:
    assert folder.run(model="faulty-forged")[0] == 0
    mask = folder.root / "out" / "masks" / "05.png.png"
    before = mask.read_bytes()
    cut(mask)
    folder.add("99.png", 50)
    assert folder.run("out", "--update", model="faulty-forged")[0] == 0
    assert mask.read_bytes() == before
