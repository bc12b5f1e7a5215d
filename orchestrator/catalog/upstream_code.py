"""Upstream code: fetched once by git at the commit that stack.yaml names, kept in the cache, copied into builds.

Only the folders that a stack needs are fetched, where the server supports it (partial clone). git checks fetched
files against the commit's digest; files in the cache are checked against digests recorded after the fetch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from orchestrator.catalog.spec import UpstreamSource
from orchestrator.errors import MachineError, SpecError
from orchestrator.paths import build_logs_folder, home, shared_home
from orchestrator.system import Report, hold_lock, run_subprocess, sha256_of, write_json

MANIFEST = "source.json"
FORMAT = "orch-source/1"
TREE = "tree"
_SETTINGS = (
    "core.symlinks=false",  # a link could lead out of the folder
    "core.autocrlf=false",
    "gc.auto=0",  # in the background it would write into a repository that is being deleted
    "advice.detachedHead=false",
    "protocol.ext.allow=never",
)
_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
_OTHERS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that would make git work on the repository that orch is called from."""


def tree_folder(name: str, source: UpstreamSource) -> Path:
    """Return the folder of a source's files, which exists once they are fetched."""
    return _folder(name, source) / TREE


def source_state(name: str, source: UpstreamSource) -> str:
    """Return "here", "damaged" or "missing", for lists."""
    folder = _folder(name, source)
    if not (folder / MANIFEST).is_file():
        return "missing"
    return "here" if _is_intact(folder) else "damaged"


def ensure_sources(
    stack: str, sources: Mapping[str, UpstreamSource], report: Report, *, offline: bool = False
) -> Mapping[str, Path]:
    """Return the folder of each of a stack's sources, fetched where missing. Raises MachineError, SpecError."""
    return {name: _ensure(stack, name, source, report, offline) for name, source in sources.items()}


def _folder(name: str, source: UpstreamSource) -> Path:
    """Return the cache folder of a commit and its wanted folders; the URL does not matter."""
    folders = hashlib.sha256(repr((source.commit, sorted(source.folders))).encode()).hexdigest()[:8]
    own = Path("sources", f"{name}-{source.commit[:12]}-{folders}")
    shared = shared_home()
    if shared is not None and (shared / own / MANIFEST).is_file() and not (home() / own / MANIFEST).is_file():
        return shared / own
    return home() / own


def _ensure(stack: str, name: str, source: UpstreamSource, report: Report, offline: bool) -> Path:
    folder = _folder(name, source)
    if _is_intact(folder):
        return folder / TREE
    folder = home() / "sources" / folder.name
    with hold_lock(home() / "locks" / f"source-{folder.name}.lock", wait=True):
        if _is_intact(folder):
            return folder / TREE
        if offline:
            raise MachineError(
                f"the sources {name} of {stack} are not in the cache",
                why=f"{source.url} at {source.commit[:12]} was never fetched, or was changed since",
                hint=f"on a machine with a network: orch sources fetch {stack}",
            )
        report(f"fetching {source.url} at {source.commit[:12]}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as work:
            tree = _fetch(stack, name, source, Path(work), report)
            _store(tree, folder, name, source)
    return folder / TREE


def _store(tree: Path, folder: Path, name: str, source: UpstreamSource) -> None:
    whole = tree.parent / "whole"
    whole.mkdir()
    tree.rename(whole / TREE)
    manifest = {
        "format": FORMAT,
        "name": name,
        "url": source.url,
        "commit": source.commit,
        "files": _digests(whole / TREE),
    }
    write_json(whole / MANIFEST, manifest)
    if folder.exists():
        shutil.rmtree(folder)
    whole.rename(folder)


def _is_intact(folder: Path) -> bool:
    """Return whether all files are as they were fetched."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest.get("format", FORMAT) == FORMAT and manifest["files"] == _digests(folder / TREE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _digests(tree: Path) -> dict[str, str]:
    # Python may have been run on the tree in the cache.
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(tree).as_posix(): sha256_of(path) for path in files}


class _Git:
    """Run git in one folder with its output in one log."""

    def __init__(self, folder: Path, log: Path, report: Report) -> None:
        if shutil.which("git") is None:
            raise MachineError("this machine has no git", hint="apt-get install git")
        self._start = ["git", "-C", str(folder), *chain.from_iterable(("-c", setting) for setting in _SETTINGS)]
        inherited = {name: value for name, value in os.environ.items() if name not in _OTHERS}
        own = {"GIT_SSL_CAINFO": os.environ["SSL_CERT_FILE"]} if os.environ.get("SSL_CERT_FILE") else {}
        self._environment = own | inherited | _QUIET
        self.log, self._report = log, report
        self.tail: list[str] = []

    def __call__(self, *arguments: str) -> bool:
        command = [*self._start, *arguments]
        code, self.tail = run_subprocess(command, self.log, self._report, environment=self._environment)
        return code == 0


def _fetch(stack: str, name: str, source: UpstreamSource, work: Path, report: Report) -> Path:
    """Check out the wanted folders of the commit in `work`. Raises MachineError, SpecError."""
    log = build_logs_folder() / f"source-{name}-{source.commit[:12]}.log"
    log.unlink(missing_ok=True)
    tree = work / "checkout"
    tree.mkdir()
    git = _Git(tree, log, report)
    partial = (("remote.origin.promisor", "true"), ("remote.origin.partialclonefilter", "blob:none"))
    ready = git("init", "--quiet") and git("remote", "add", "origin", source.url)
    ready = ready and all(git("config", key, value) for key, value in partial)
    # Not every server hands out a single commit by its digest.
    fetched = ready and (
        git("fetch", "--quiet", "--no-tags", "--depth", "1", "--filter=blob:none", "origin", source.commit)
        or git("fetch", "--quiet", "--filter=blob:none", "origin", "+refs/heads/*:refs/remotes/origin/*")
    )
    if not fetched:
        hint = f"with a network: orch sources fetch {stack}"
        raise MachineError(f"cannot fetch {source.url}", why=_reason(git.tail), log=log, hint=hint)
    if not git("rev-parse", "--quiet", "--verify", f"{source.commit}^{{commit}}"):
        why = f"sources.{name} in the stack.yaml of {stack}"
        raise SpecError(f"{source.url} has no commit {source.commit}", why=why, log=log)
    if not git("checkout", "--quiet", source.commit, "--", *(source.folders or (".",))):
        raise MachineError(f"cannot check out {source.url} at {source.commit[:12]}", why=_reason(git.tail), log=log)
    shutil.rmtree(tree / ".git")
    return tree


def _reason(tail: list[str]) -> str:
    errors = [line for line in tail if line.startswith(("fatal:", "error:"))]
    return "\n".join(errors or tail[-3:]) or "git gave no reason"
