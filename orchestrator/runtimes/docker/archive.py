"""Images as `docker save` archives, named by their content, for machines that build nothing."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path

from orchestrator.errors import MachineError
from orchestrator.hardware import LABEL
from orchestrator.paths import images_folder
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import BuildInputs
from orchestrator.runtimes.docker.build import ensure_image, inspect_image, point_alias
from orchestrator.system import Engine, Report, hold_lock, replace_file

_GZIP_LEVEL = 1
"""Higher levels take far longer for little. zstd is not in the standard library before Python 3.14."""
_BLOCK_BYTES = 1 << 20


def find_archive(inputs: BuildInputs) -> Path | None:
    """Return the archive of an image in the folder of images; None where it is missing."""
    path = _archive_in(images_folder(), inputs)
    return path if path.is_file() else None


def ensure_archive(
    engine: Engine, inputs: BuildInputs, options: BuildOptions, report: Report, folder: Path | None = None
) -> Path:
    """Return the archive of the image in `folder` (None: the folder of images), written unless it exists.

    Raises BuildError, MachineError.
    """
    path = _archive_in(folder or images_folder(), inputs)
    if not path.is_file() or options.rebuild:
        image, _, _ = ensure_image(engine, inputs, options, report)
        report(f"writing {path}")
        _write_archive(engine, image, inputs.image_tag, path)
    return path


def ensure_loaded(engine: Engine, inputs: BuildInputs, report: Report) -> str | None:
    """Return the id of the image, loaded from its archive once per machine; None without an archive.

    Raises MachineError for an archive that cannot be read or holds another image.
    """
    archive = find_archive(inputs)
    if archive is None:
        return None
    tag = inputs.image_tag
    with hold_lock(_machine_lock(f"load-{inputs.identity}"), wait=True):
        image = inspect_image(engine, tag)
        if image is not None:
            return image.id
        report(f"loading {archive}")
        _load_archive(engine, archive)
        image = inspect_image(engine, tag)
    identity = None if image is None else image.labels.get(f"{LABEL}.identity")
    if image is None or identity != inputs.identity:
        raise MachineError(
            f"{archive} does not hold the image {tag}",
            why="it holds no image of that name" if identity is None else f"it is labelled {identity}",
            hint=f"remove it, and write it again: orch build {inputs.stack} --variant {inputs.variant} --archive",
        )
    point_alias(engine, inputs, image.id)
    return image.id


def _archive_in(folder: Path, inputs: BuildInputs) -> Path:
    return folder / f"{inputs.file_stem}.tar.gz"


def _machine_lock(name: str) -> Path:
    """Return a lock of this user on this machine; the home folder may be shared with other machines."""
    return Path(tempfile.gettempdir()) / f"orch-{os.getuid()}" / f"{name}.lock"


def _write_archive(engine: Engine, image: str, tag: str, path: Path) -> None:
    """Save an image under its name into the file `path`, in one step. Raises MachineError."""
    import docker.errors

    try:
        with replace_file(path) as stream, gzip.GzipFile("", "wb", _GZIP_LEVEL, stream, mtime=0) as packed:
            for block in engine.client.images.get(image).save(_BLOCK_BYTES, named=tag):
                packed.write(block)
    except (docker.errors.DockerException, OSError) as error:
        raise MachineError(f"cannot write the archive {path}", why=str(error)) from error


def _load_archive(engine: Engine, path: Path) -> None:
    """Load an archive's image into the engine. Raises MachineError."""
    import docker.errors

    try:
        with path.open("rb") as stream:
            engine.client.images.load(stream)
    except (docker.errors.DockerException, OSError) as error:
        raise MachineError(f"cannot load the archive {path}", why=str(error), hint="remove it") from error
