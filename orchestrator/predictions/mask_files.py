"""The names of mask pictures: the probability pictures of a manipulation run, one per image."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from orchestrator.errors import PredictionsError

_LIKE_A_PICTURE = re.compile(r"\.png(\.d)*$", re.IGNORECASE)
LONGEST_NAME = 255  # bytes of one file name, on the usual file systems


def picture_path(folder: Path, file: str) -> Path:
    """Return `folder`/<image file>.png, always inside `folder`; the extension stays: y.jpg and y.png differ.

    No picture is in the way of a folder: folders whose names end in .png get .d at the end. Raises PredictionsError for
    a name that would lead elsewhere.
    """
    parts = file.split("/")
    if "\0" in file or any(part in ("", ".", "..") for part in parts):
        raise PredictionsError(
            f"{file!r} is not a relative path of an image",
            why="it would be written outside the folder",
            hint="orch validate FILE",
        )
    name = f"{parts[-1]}.png"
    if len(name.encode(errors="surrogateescape")) > LONGEST_NAME:
        name = f"{parts[-1][:40]}-{sha256(name.encode(errors='surrogateescape')).hexdigest()[:16]}.png"
    folders = [f"{part}.d" if _LIKE_A_PICTURE.search(part) else part for part in parts[:-1]]
    target = folder.joinpath(*folders, name)
    if not target.resolve().is_relative_to(folder.resolve()):
        raise PredictionsError(f"{target} leads outside {folder}", why="one of its folders is a link")
    return target
