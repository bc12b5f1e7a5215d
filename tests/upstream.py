"""A git repository on this machine that stands in for one on the internet."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

FILES = {"net/model.py": "one", "net/deep/layer.py": "two", "data/huge.bin": "x" * 1000, "README.md": "read"}


class Upstream:
    """A repository with two commits; the first is what stacks ask for."""

    url = "https://upstream.invalid/net"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch", "main")
        for name, text in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        (folder / "net" / "link").symlink_to("/etc/passwd")
        self.commit = self._commit("first")
        (folder / "net" / "model.py").write_text("changed since")
        self._commit("second")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(self.folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def _commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def stand_in(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Have git find it under `url`, and orch keep its cache in `home`."""
        monkeypatch.setenv("ORCH_HOME", str(home))
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{self.folder}.insteadOf")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", self.url)
