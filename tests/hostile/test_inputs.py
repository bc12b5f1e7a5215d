"""Folders of images that were made to lead elsewhere, never to end, or to be shown raw."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.arena import Arena, said_to_terminal
from tests.hostile.commands import Done
from tests.hostile.outside import Outside
from tests.hostile.table import BRIGHT

TIMEOUT = 60
ESCAPES = (
    "a\nb.png",
    "c\rd.png",
    "\x1b[2J\x1b]0;x\x07.png",
    "::error file=x::y.png",
    "\u202egnp.exe",
    "-x.png",
    "\n::error ::z.png",
)


@pytest.fixture
def images(tmp_path: Path, hostile_images: Path) -> Path:
    """Two sound images in a folder and in a folder of it."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(hostile_images / "00.png", folder / "00.png")
    shutil.copy(hostile_images / "01.png", folder / "sub" / "01.png")
    return folder


def predict(arena: Arena, images: Path, out: Path, *more: str, expect: tuple[int, ...] = (0, 1)) -> Done:
    """Run the images; what a command may print and how it may end holds here too."""
    done = arena.commands.run("run", "-m", BRIGHT, "-i", images, "-o", out, *arena.options, *more, timeout=TIMEOUT)
    faults = ["hung"] if done.hung else []
    faults += [] if done.code in expect else [f"exit {done.code}, expected one of {expect}"]
    faults += said_to_terminal(done)
    if faults:
        pytest.fail("\n".join([*faults, str(done)]), pytrace=False)
    return done


def listed(out: Path) -> list[dict[str, Any]]:
    """The images of a run."""
    return [json.loads(line) for line in (out / "inputs.jsonl").read_text().splitlines()]


def test_a_link_to_a_file_outside_is_not_followed(venv_arena: Arena, images: Path, tmp_path: Path) -> None:
    outside = Outside(tmp_path / "outside").make()
    (images / "x.png").symlink_to(outside.root / "secret.txt")
    (images / "y.png").symlink_to(outside.root / "pictures" / "00000" / "00000000.png")
    (images / "z.png").symlink_to("/etc/passwd")
    (images / "folder").symlink_to(outside.root / "pictures")
    predict(venv_arena, images, tmp_path / "run")
    predicted = {one["file"] for one in listed(tmp_path / "run") if one.get("error") is None}
    assert predicted == {"00.png", "sub/01.png"}
    assert outside.changes() == []


def test_links_that_lead_back_give_each_image_once(venv_arena: Arena, images: Path, tmp_path: Path) -> None:
    (images / "sub" / "up").symlink_to("..")
    (images / "sub" / "upup").symlink_to("../..")
    (images / "sub" / "self").symlink_to(".")
    (images / "loop.png").symlink_to("loop.png")
    predict(venv_arena, images, tmp_path / "run")
    predicted = [one["file"] for one in listed(tmp_path / "run") if one.get("error") is None]
    assert len(predicted) == 2, predicted


def test_what_is_no_regular_file_is_no_image(venv_arena: Arena, images: Path, tmp_path: Path) -> None:
    os.mkfifo(images / "fifo.png")
    (images / "zero.png").symlink_to("/dev/zero")
    (images / "tty.png").symlink_to("/dev/tty")
    (images / "dangling.png").symlink_to("nowhere")
    (images / "folder.png").mkdir()
    predict(venv_arena, images, tmp_path / "run")
    predicted = {one["file"] for one in listed(tmp_path / "run") if one.get("error") is None}
    assert predicted == {"00.png", "sub/01.png"}


@pytest.mark.parametrize(("name", "start"), [("sparse.png", b""), ("sparse.jpg", b"\xff\xd8\xff")])
def test_a_sparse_file_of_six_gigabytes_costs_itself_alone(
    venv_arena: Arena, images: Path, tmp_path: Path, name: str, start: bytes
) -> None:
    """A decoder that looks for the next marker of a JPEG would read all of it, byte by byte."""
    with (images / name).open("wb") as stream:
        stream.write(start)
        stream.truncate(6 << 30)
    predict(venv_arena, images, tmp_path / "run", expect=(1,))
    assert {one["file"] for one in listed(tmp_path / "run")} == {"00.png", "sub/01.png", name}


def test_pictures_that_claim_to_be_huge_cost_themselves_alone(venv_arena: Arena, images: Path, tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for name, side in (("huge.png", 60_000), ("largest.png", 2**31 - 1)):
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
        (images / name).write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    predict(venv_arena, images, tmp_path / "run", expect=(1,))


def test_names_never_reach_the_terminal_raw(venv_arena: Arena, images: Path, tmp_path: Path) -> None:
    for name in ESCAPES:
        (images / name).write_bytes(b"no image")
    (Path(os.fsdecode(os.path.join(os.fsencode(images), b"\xff\xfe.png")))).write_bytes(b"no image")
    predict(venv_arena, images, tmp_path / "run", expect=(1,))
    for command in (
        ("inspect", tmp_path / "run"),
        ("validate", tmp_path / "run"),
        ("inspect", tmp_path / "run", "--json"),
    ):
        done = venv_arena.commands.run(*command, timeout=TIMEOUT)
        assert done.code in (0, 1), done
        assert said_to_terminal(done) == [], done
    predict(venv_arena, images, tmp_path / "\x1b[2J\n::error ::run", expect=(1,))
    predict(venv_arena, images / "\x1b[2J\n::error ::missing", tmp_path / "other", expect=(2,))


@pytest.mark.docker
def test_a_container_sees_nothing_but_the_named_folders(docker_arena: Arena, images: Path, tmp_path: Path) -> None:
    """The guest itself looks for what is below its folder of images."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    outside = Outside(tmp_path / "outside").make()
    (images / "x.png").symlink_to("/etc/passwd")
    (images / "y.png").symlink_to(outside.root / "pictures" / "00000" / "00000000.png")
    docker_arena.forget_attacks()
    predict(docker_arena, images, tmp_path / "run", "--set", "attack=looks-at-inputs@0")
    assert "looks-at-inputs" in docker_arena.carried_out()
    assert docker_arena.reached() == []
    assert outside.changes() == []


@pytest.mark.docker
def test_an_image_that_nobody_may_read_is_predicted_all_the_same(
    docker_arena: Arena, images: Path, tmp_path: Path
) -> None:
    """Containers never run as root: what only root may read is handed to them as a copy."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (images / "00.png").chmod(0o600)
    predict(docker_arena, images, tmp_path / "run", expect=(0,))
    assert (images / "00.png").stat().st_mode & 0o777 == 0o600
