"""The names of files that are named after images: never two alike, never outside their folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.system import replace_path

LONGEST_NAME = 255  # bytes of one file name, on the usual file systems


def picture_path(folder: Path, file: str) -> Path:
    """Return `folder`/<image file>.png, the name of a picture of a run; the extension stays: y.jpg and y.png differ."""
    return path_below(folder, file, ".png")


def path_below(folder: Path, name: str, ending: str) -> Path:
    """Return `folder`/<name><ending>, always inside `folder`; different names give different paths.

    No file is in the way of a folder: folders whose names end like a file get .d at the end. Raises PredictionsError
    for a name that would lead elsewhere.
    """
    parts = name.split("/")
    if not is_plain_path(name):
        raise PredictionsError(
            f"{name!r} is not a relative path of an image",
            why="it would be written outside the folder",
            hint="orch validate FILE",
        )
    last = f"{parts[-1]}{ending}"
    if len(last.encode(errors="surrogateescape")) > LONGEST_NAME:
        last = f"{parts[-1][:40]}-{sha256(last.encode(errors='surrogateescape')).hexdigest()[:16]}{ending}"
    like_a_file = re.compile(rf"{re.escape(ending)}(\.d)*$", re.IGNORECASE)
    folders = [f"{part}.d" if like_a_file.search(part) else part for part in parts[:-1]]
    target = folder.joinpath(*folders, last)
    if not target.resolve().is_relative_to(folder.resolve()):
        raise PredictionsError(f"{target} leads outside {folder}", why="one of its folders is a link")
    return target


def is_plain_path(name: str) -> bool:
    """Return whether a name is a relative path that leads nowhere but below the folder it is relative to."""
    return "\0" not in name and not any(part in ("", ".", "..") for part in name.split("/"))


def assign_paths(
    folder: Path, files: Sequence[str], ending: str, namings: Sequence[Callable[[str], str]] | None = None
) -> list[Path]:
    """Return for each image a path of its own in `folder`, named as `choose_names` does.

    By default after the relative path without its extension, where that is unique, else with it.
    """
    names = choose_names(files, namings or [without_extension, str])
    return [path_below(folder, name, ending) for name in names]


def choose_names(files: Sequence[str], namings: Sequence[Callable[[str], str]]) -> list[str]:
    """Return a name for each file, all different: that of the first of the `namings` that sets it apart.

    The last naming gives different files different names. Files that share a name all get the next one, until none do.
    """
    levels = [0] * len(files)
    names = [namings[0](file) for file in files]
    while True:
        counts = Counter(names)
        shared = [i for i, name in enumerate(names) if counts[name] > 1 and levels[i] < len(namings) - 1]
        if not shared:
            return names
        for i in shared:
            levels[i] += 1
            names[i] = namings[levels[i]](files[i])


def stem(file: str) -> str:
    """Return the base name without its extension."""
    path = PurePosixPath(file)
    return path.name if path.stem in (".", "..") else path.stem


def without_extension(file: str) -> str:
    """Return the relative path without its extension."""
    return file[: len(file) - len(PurePosixPath(file).name)] + stem(file)


@contextmanager
def fill_new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block succeeds. UsageError where `target` holds anything."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already", hint="give another folder: --output FOLDER")
    with replace_path(target) as aside:
        aside.mkdir()
        yield aside
