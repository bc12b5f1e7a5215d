"""The probability pictures of a manipulation run: from the names workers gave them to those of their images."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import PredictionsError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.paths import RunPaths
    from orchestrator.plan.plan import Plan

LONGEST_NAME = 255  # bytes of one file name, on the usual file systems


def picture_path(folder: Path, file: str) -> Path:
    """`folder`/<image file>.png, the extension kept so that y.jpg and y.png stay apart: always inside `folder`.

    Raises PredictionsError for a name that would lead elsewhere.
    """
    parts = file.split("/")
    if "\0" in file or any(part in ("", ".", "..") for part in parts):
        raise PredictionsError(
            f"{file!r} is no relative path of an image",
            why="it would be written outside the folder",
            hint="orch validate FILE",
        )
    name = f"{parts[-1]}.png"
    if len(name.encode(errors="surrogateescape")) > LONGEST_NAME:
        name = f"{parts[-1][:40]}-{sha256(name.encode(errors='surrogateescape')).hexdigest()[:16]}.png"
    target = folder.joinpath(*parts[:-1], name)
    if not target.resolve().is_relative_to(folder.resolve()):
        raise PredictionsError(f"{target} leads outside {folder}", why="a folder on its way is a link")
    return target


def gather_masks(plan: Plan, paths: RunPaths, predicted: Sequence[bool]) -> int:
    """Move the pictures of predicted images to masks/<image file>.png; how many there are.

    May be cut off and repeated. RunError, naming the shard, when a picture is nowhere.
    """
    there = 0
    for shard in plan.shards:
        for image in plan.images_of(shard):
            if not predicted[image.index]:
                continue
            source = paths.shards / "masks" / f"{shard:05d}" / f"{image.index:08d}.png"
            target = picture_path(paths.masks, image.file)
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
            elif not target.exists():
                raise RunError(
                    f"the mask of {image.file} is missing",
                    why=f"there is no {source}",
                    hint=f"remove {paths.shard(shard)} and run the same command again: it resumes there",
                )
            there += 1
    shutil.rmtree(paths.shards / "masks", ignore_errors=True)
    return there
