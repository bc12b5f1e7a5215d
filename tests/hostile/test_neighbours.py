"""Other users of the machine: their workers are not found by accident, and a spool that is theirs is not used."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.arena import Arena, said_to_terminal
from tests.hostile.commands import Done
from tests.hostile.outside import OTHER_USER
from tests.hostile.table import BRIGHT
from tests.hostile.warm_arena import WarmArena

TIMEOUT = 60
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acting for another user takes root")


def give(folder: Path, user: int) -> None:
    """Make another user the owner of a folder and all that is in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def run(arena: Arena, out: Path, *options: object, cwd: Path | None = None) -> Done:
    """Run the images, and check that nothing hung and nothing reached the terminal."""
    given = ("run", "-m", BRIGHT, "-i", arena.images, "-o", out, *options)
    done = arena.commands.run(*given, timeout=TIMEOUT, cwd=cwd)
    assert not done.hung, done
    assert said_to_terminal(done) == [], done
    return done


@pytest.fixture
def others_spool(warm_arena: WarmArena, tmp_path: Path) -> Iterator[Path]:
    """A folder with a Compose file and another user's spool beside it, in which a worker of the same build is up."""
    warm_arena.start_worker()
    warm_arena.honest_run(BRIGHT)
    spool, beats = tmp_path / "project" / "spool", []
    shutil.copytree(warm_arena.home / "spool", spool, ignore_dangling_symlinks=True)
    (tmp_path / "project" / "compose.yaml").write_text("services: {}\n")
    for beat in spool.rglob("workers/*.json"):
        if not beat.name.endswith(".files.json"):
            document = json.loads(beat.read_text())
            beat.write_text(json.dumps({**document, "uid": OTHER_USER, "gid": OTHER_USER}))
            beats.append(beat)
    assert beats, "no worker to be copied"
    give(spool, OTHER_USER)
    done = threading.Event()
    locks = [beat.with_suffix(".lock").open("w") for beat in beats]

    def live() -> None:
        number = 10**6
        while not done.wait(0.2):
            number += 1
            for beat in beats:
                aside = beat.with_name(f".{beat.name}")
                aside.write_text(json.dumps({**json.loads(beat.read_text()), "beat": number}))
                os.chown(aside, OTHER_USER, OTHER_USER)
                os.replace(aside, beat)

    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    yield spool
    done.set()
    thread.join()
    for lock in locks:
        lock.close()


@needs_root
@pytest.mark.docker
def test_a_run_without_warm_does_not_take_another_users_worker(
    warm_arena: WarmArena, others_spool: Path, tmp_path: Path
) -> None:
    """Nobody claims a job there: a run that took it would fail or wait."""
    warm_arena.remove_worker()
    done = run(warm_arena, tmp_path / "run", "--runtime", "venv", cwd=others_spool.parent)
    assert done.code == 0, done
    done = run(warm_arena, tmp_path / "auto", cwd=others_spool.parent)
    assert done.code == 0, done
    assert str(others_spool).encode() not in done.stderr, done


@needs_root
@pytest.mark.docker
def test_another_users_spool_is_refused_when_it_is_named(
    warm_arena: WarmArena, others_spool: Path, tmp_path: Path
) -> None:
    before = sorted(str(path) for path in others_spool.rglob("*"))
    done = run(warm_arena, tmp_path / "run", "--warm", "--spool", others_spool)
    assert done.code in (2, 4), done
    assert str(others_spool).encode() in done.stderr, done
    assert [path for path in sorted(str(path) for path in others_spool.rglob("*")) if ".json" not in path] == [
        path for path in before if ".json" not in path
    ]


def make_open(spool: Path) -> None:
    spool.mkdir(parents=True)
    spool.chmod(0o777)


def make_link(spool: Path) -> None:
    real = spool.with_name("elsewhere")
    real.mkdir(parents=True)
    spool.symlink_to(real)


def make_foreign(spool: Path) -> None:
    spool.mkdir(parents=True)
    os.chown(spool, OTHER_USER, OTHER_USER)


def make_file(spool: Path) -> None:
    spool.parent.mkdir(parents=True, exist_ok=True)
    spool.write_text("not a folder")


@pytest.mark.docker
@pytest.mark.parametrize("make", [make_open, make_link, pytest.param(make_foreign, marks=needs_root), make_file])
def test_a_spool_that_others_can_write_is_never_used(warm_arena: WarmArena, make: object, tmp_path: Path) -> None:
    assert callable(make)
    spool = tmp_path / "place" / "spool"
    spool.parent.mkdir()
    make(spool)
    state = os.lstat(spool)
    for command in (
        ("run", "--warm", "-m", BRIGHT, "-i", warm_arena.images, "-o", tmp_path / "run"),
        ("up", "hostile"),
    ):
        done = warm_arena.commands.run(*command, "--spool", spool, timeout=TIMEOUT)
        assert not done.hung, done
        assert done.code in (2, 4), done
        assert b"spool" in done.stderr, done
    after = os.lstat(spool)
    assert (after.st_mode, after.st_uid, after.st_ino) == (state.st_mode, state.st_uid, state.st_ino)
    assert not spool.is_dir() or spool.is_symlink() or list(spool.iterdir()) == []


@pytest.mark.docker
def test_the_users_own_spool_is_closed_to_others(warm_arena: WarmArena) -> None:
    """Staged copies of images that only their owner may read lie below it."""
    warm_arena.start_worker()
    warm_arena.honest_run(BRIGHT)
    state = os.lstat(warm_arena.home / "spool")
    assert stat.S_ISDIR(state.st_mode)
    assert state.st_mode & 0o077 == 0, stat.filemode(state.st_mode)
    assert state.st_uid == os.geteuid()
