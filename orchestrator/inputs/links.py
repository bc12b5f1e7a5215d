"""Decide where links in input folders may lead, and stage files that lie outside the folders the user named."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

LEADS_OUTSIDE = "a link that leads out of the folders named (--follow-links follows it)"
LISTED_ALREADY = "a link to a folder that is listed"
NOT_REGULAR = "not a regular file"
_SHOWN_FOLDERS = 5

FolderId = tuple[int, int]
"""Device and inode."""


@dataclass
class Links:
    """The rules for links of one command. A worker sees the folders the user named, whole, and what is staged.

    `named` and `walked` are real paths: all folders that the user named, and those that are listed with all below.
    """

    named: tuple[str, ...] = ()
    walked: tuple[str, ...] = ()
    follow: bool = False
    stage_in: Path | None = None
    """Folder in the run directory for files outside the named folders."""
    visited: set[FolderId] = field(default_factory=set)
    """Folders outside the named ones that were listed through a link."""
    staged: Counter[str] = field(default_factory=Counter)
    """Number of staged files, by the real folder that contains them."""

    def named_folder(self, folder: str) -> str | None:
        """Return the folder named by the user that contains the real folder `folder`, or None."""
        return next((named for named in self.named if is_inside(folder, named)), None)

    def refusal_of_folder(self, real: str, root: str) -> str | None:
        """Return why a link to the folder `real`, met below the real root `root`, is not followed, or None."""
        if is_inside(real, root) or any(is_inside(real, walked) for walked in self.walked):
            return LISTED_ALREADY
        return None if self.follow or self.named_folder(real) else LEADS_OUTSIDE

    def stage(self, real: str) -> tuple[str, str]:
        """Link or copy a file into the run directory; return the staged file's folder and name. Raises OSError."""
        if self.stage_in is None:
            raise OSError("no folder to stage linked files in")
        if not self.staged:
            # Readable by the caller alone; root's workers run as another user, who must get in.
            self.stage_in.mkdir(mode=0o700 if os.geteuid() else 0o755, parents=True, exist_ok=True)
        target = self.stage_in / f"{self.staged.total():08d}{Path(real).suffix}"
        self.staged[str(Path(real).parent)] += 1
        link_or_copy(real, target)
        return str(target.parent.resolve()), target.name

    def notes(self) -> list[str]:
        """Return a line about staged files for the user, if there are any."""
        if not self.staged:
            return []
        folders = sorted(self.staged)
        more = ", …" if len(folders) > _SHOWN_FOLDERS else ""
        why = "because of --follow-links" if self.follow else "because links to them were named"
        return [
            f"{self.staged.total()} files outside the named folders are linked or copied into the run, {why}: "
            f"workers see these files of {', '.join(folders[:_SHOWN_FOLDERS])}{more}, and nothing else there"
        ]


def link_or_copy(source: str, target: Path) -> None:
    """Make `target` the same file as `source`, else a copy with its modification time. Raises OSError."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or another user's file
        shutil.copy2(source, target)


def is_inside(folder: str, other: str) -> bool:
    """Return whether the folder is `other` or below it; both are absolute."""
    return folder == other or folder.startswith(other.rstrip("/") + "/")


def folder_id(path: str) -> FolderId:
    """Return what identifies a folder under any name. Raises OSError."""
    state = Path(path).stat()
    return state.st_dev, state.st_ino
