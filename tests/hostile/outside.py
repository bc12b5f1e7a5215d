"""Files of the host's outside of a run, which no attack may reach: their state, and traces of their content."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

OTHER_USER = 4242
LONGEST_PATH = 4000
"""Deeper files cannot be named by a path; nothing but folders is that deep."""


@dataclass
class Outside:
    """A folder with a secret of the host's in many shapes, and a folder of originals."""

    root: Path
    secret: str = field(default_factory=lambda: f"SECRET-{os.urandom(16).hex()}")
    _before: dict[str, tuple[object, ...]] = field(default_factory=dict)

    def make(self) -> Outside:
        """Write all files, and remember their state."""
        (self.root / "originals" / "out" / "masks" / "00001").mkdir(parents=True)
        for shard in range(12):
            (self.root / "pictures" / f"{shard:05d}").mkdir(parents=True)
        private = 0o600
        self._write("secret.txt", self.secret.encode() * 4, private)
        self._write("secret.npz", self._shard(), private)
        for number in range(6):
            for name in (f"{number:05d}.npz", f"{number:05d}.part.npz", f"{number:05d}.json"):
                self._write(f"originals/{name}", self._shard() if name.endswith("z") else self.secret.encode(), private)
                self._write(f"originals/out/{name}", self._shard(), private)
        for name in ("job.json", "worker.log", "events.jsonl", "exit.json", "alive", "0/00.png", "00.png", "01.png"):
            self._write(f"originals/{name}", self.secret.encode(), private)
        for index in range(24):
            for folder in (f"pictures/{index // 2:05d}", "originals/out/masks/00001"):
                self._write(f"{folder}/{index:08d}.png", self._picture(), private)
        self._write("originals/of-another-user", self.secret.encode(), 0o640)
        if os.geteuid() == 0:
            os.chown(self.root / "originals" / "of-another-user", OTHER_USER, OTHER_USER)
        self._before = dict(self._states())
        return self

    def changes(self, *, links: bool = True) -> list[str]:
        """Return what differs from before. Without `links`, a further hard link is no difference."""
        now = dict(self._states())
        different = [f"new: {name}" for name in sorted(now.keys() - self._before.keys())]
        different += [f"gone: {name}" for name in sorted(self._before.keys() - now.keys())]
        for name in sorted(now.keys() & self._before.keys()):
            before, after = self._before[name], now[name]
            if before != after and (links or before[1:] != after[1:]):
                different.append(f"changed: {name}: {before} -> {after}")
        return different

    def traces(self, folder: Path) -> list[str]:
        """Return the files below `folder` that hold the secret. Follows nothing; the host's own files do not count."""
        own = {(state.st_dev, state.st_ino) for state in map(os.lstat, self._files())}
        found = []
        for path in files_below(folder):
            state = os.lstat(path)
            if not stat.S_ISREG(state.st_mode) or (state.st_dev, state.st_ino) in own or state.st_size > 1 << 28:
                continue
            if self._is_in(path):
                found.append(str(path))
        return found

    def _is_in(self, path: str) -> bool:
        with open(path, "rb") as stream:
            content = stream.read()
        if self.secret.encode() in content:
            return True
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [archive.read(one) for one in archive.infolist() if one.file_size < 1 << 28]
        except Exception:  # no archive, or a damaged one
            return False
        wanted = (self.secret.encode(), self.secret.encode("utf-32-le"))
        return any(one in member for member in members for one in wanted)

    def _write(self, name: str, content: bytes, mode: int) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)

    def _shard(self) -> bytes:
        """A shard, sound but for its plan, whose images failed for the secret."""
        stream = io.BytesIO()
        arrays = {
            "image_file": np.array(["00.png", "01.png"]),
            "image_size": np.zeros((2, 2), np.int32),
            "status": np.ones(2, np.uint8),
            "error": np.array([self.secret, self.secret]),
        }
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        return stream.getvalue() + self.secret.encode()

    def _picture(self) -> bytes:
        stream, text = io.BytesIO(), PngImagePlugin.PngInfo()
        text.add_text("secret", self.secret)
        Image.new("L", (50, 40), 99).save(stream, "PNG", pnginfo=text)
        return stream.getvalue()

    def _files(self) -> list[str]:
        return [str(self.root), *files_below(self.root)]

    def _states(self) -> Iterator[tuple[str, tuple[object, ...]]]:
        for path in self._files():
            state = os.lstat(path)
            is_file = stat.S_ISREG(state.st_mode)
            links = state.st_nlink if is_file else 0
            content = Path(path).read_bytes() if is_file else b""
            kept = (state.st_mode, state.st_uid, state.st_gid, state.st_ino, state.st_mtime_ns, hash(content))
            yield os.path.relpath(path, self.root), (links, *kept)


def files_below(folder: Path) -> Iterator[str]:
    """Yield all paths below a folder, following nothing; folders as deep as paths can be."""
    waiting = [str(folder)]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if len(entry.path) > LONGEST_PATH:
                        continue
                    yield entry.path
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:  # too deep for a path, or gone
            continue
