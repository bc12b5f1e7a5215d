"""Find out whether an engine's containers see this machine's folders: a file is put into one and read in a container.

An engine on another machine, in a virtual machine that shares only some folders, or outside of the container that orch
runs in, mounts folders of its own under the same names.
"""

from __future__ import annotations

import io
import os
import secrets
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError
from orchestrator.system import Engine

HINT = (
    "run orch on the machine of the engine; Docker Desktop: share the folder (Settings, Resources, File sharing); in a "
    "container: mount the folder under the same name; or use --runtime venv"
)
USERS_HINT = "--runtime venv; or an engine without userns-remap, or with folders that its users may enter"
MISSING = ("bind source path does not exist", "mounts denied", "is not shared")
"""What engines answer about a folder that they do not see."""
IMAGE = "orch/probe:empty"
_TOKEN = "token"
_MAPPING = ("userns", "selinux")
"""Security options with which a container may see a folder and still not be let in."""


def require_visible(engine: Engine, folders: Iterable[Path]) -> None:
    """Raise MachineError where containers would not see these folders, or the nearest ones above them that exist."""
    if _is_local(engine):
        return
    for folder in folders:
        while not folder.is_dir():
            folder = folder.parent
        with tempfile.TemporaryDirectory(prefix=".orch-probe-", dir=folder) as probe:
            token = secrets.token_hex(16)
            Path(probe, _TOKEN).write_text(token, encoding="ascii")
            why = _look(engine, probe, token)
        if why is not None:
            raise MachineError(f"the engine at {engine.url} does not see {folder}", why=why, hint=HINT)


def require_access(engine: Engine, settings: dict[str, Any], start: Callable[[Engine, dict[str, Any]], Any]) -> None:
    """Raise MachineError where a worker with these settings could not read its job or write its results.

    Only engines that map users or confine containers are asked, by a container like the worker's.
    """
    mapping = [option for option in _MAPPING if option in engine.security]
    if not mapping:
        return
    code = "import os; os.listdir('/job'); name = '/out/.probe'; open(name, 'w').close(); os.unlink(name)"
    name = f"{settings['name']}-probe"
    container = start(engine, {**settings, "name": name, "command": ["python", "-c", code]})
    try:
        if container.wait(timeout=60)["StatusCode"] == 0:
            return
        lines = container.logs(stdout=False, stderr=True).decode(errors="replace").strip().splitlines()
    finally:
        with suppress(Exception):
            container.remove(force=True)
    raise MachineError(
        f"workers cannot use their folders: the engine has {' and '.join(mapping)}",
        why=lines[-1] if lines else "the probe failed without a word",
        hint=USERS_HINT,
    )


def _is_local(engine: Engine) -> bool:
    """Return whether the engine surely runs beside orch; a folder that it does not see is then said when it starts."""
    info = engine.info
    has_root = Path(str(info.get("DockerRootDir") or "/nonexistent")).is_dir()
    is_desktop = "desktop" in str(info.get("OperatingSystem", "")).lower()
    is_here = info.get("Name") == socket.gethostname() and not os.path.lexists("/.dockerenv")
    return engine.url.startswith("unix:") and has_root and is_here and not is_desktop


def _look(engine: Engine, folder: str, token: str) -> str | None:
    """Return why a container would not see the file in `folder`; None where it does. The container never runs."""
    import docker.errors
    from docker.types import Mount

    container = None
    try:
        mount = Mount("/probe", folder, type="bind", read_only=True)
        container = engine.client.containers.create(
            _empty_image(engine), ["/none"], mounts=[mount], network_mode="none"
        )
        try:
            blocks, _ = container.get_archive(f"/probe/{_TOKEN}")
        except docker.errors.NotFound:
            return "a file written there is not in a container that mounts the folder"
        with tarfile.open(fileobj=io.BytesIO(b"".join(blocks))) as archive:
            stream = archive.extractfile(_TOKEN)
            content = b"" if stream is None else stream.read()
    except docker.errors.APIError as error:
        why = str(error.explanation or error)
        return why if any(words in why for words in MISSING) else None  # what it cannot do, workers do not need
    except (docker.errors.DockerException, OSError, tarfile.TarError):
        return None
    finally:
        if container is not None:
            with suppress(Exception):
                container.remove(force=True)
    return None if content == token.encode() else "it has another file of that name"


def _empty_image(engine: Engine) -> str:
    """Return an image without any file, made once per engine. Raises what the engine's SDK raises."""
    import docker.errors

    try:
        engine.client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        empty = io.BytesIO()
        tarfile.open(fileobj=empty, mode="w").close()
        name, _, tag = IMAGE.partition(":")
        engine.client.api.import_image_from_data(empty.getvalue(), repository=name, tag=tag)
    return IMAGE
