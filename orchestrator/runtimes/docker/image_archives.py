"""Images as files, for machines that build nothing: `docker save` archives, named by what is in them."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path

from orchestrator.errors import MachineError
from orchestrator.paths import images_folder
from orchestrator.runtimes.build_inputs import BuildInputs
from orchestrator.system.container_engine import Engine
from orchestrator.system.files import replace_file

_LEVEL = 1
"""Of gzip: higher ones take far longer for little. zstd is not in the standard library before Python 3.14."""
_BLOCK = 1 << 20


def archive_in(folder: Path, inputs: BuildInputs) -> Path:
    """The name of an image's archive; another content, another name."""
    return folder / f"{inputs.stack}-{inputs.variant}-{inputs.identity}.tar.gz"


def find_archive(inputs: BuildInputs) -> Path | None:
    """The archive of an image, if there is one."""
    path = archive_in(images_folder(), inputs)
    return path if path.is_file() else None


def machine_lock(name: str) -> Path:
    """A lock of this user on this machine; the home folder may be shared with others."""
    return Path(tempfile.gettempdir()) / f"orch-{os.getuid()}" / f"{name}.lock"


def write_archive(engine: Engine, image: str, tag: str, path: Path) -> None:
    """Save an image under its name into the file `path`, in one step. Raises MachineError."""
    import docker.errors

    try:
        with replace_file(path) as stream, gzip.GzipFile("", "wb", _LEVEL, stream, mtime=0) as packed:
            for block in engine.client.images.get(image).save(_BLOCK, named=tag):
                packed.write(block)
    except (docker.errors.DockerException, OSError) as error:
        raise MachineError(f"the archive {path} cannot be written", why=str(error)) from error


def load_archive(engine: Engine, path: Path) -> None:
    """Have the engine take an archive's image. Raises MachineError."""
    import docker.errors

    try:
        with path.open("rb") as stream:
            engine.client.images.load(stream)
    except (docker.errors.DockerException, OSError) as error:
        raise MachineError(f"the archive {path} cannot be loaded", why=str(error), hint="remove it") from error
