"""Building a variant's image with the command line's BuildKit; the tag follows from the content."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator import __version__
from orchestrator.catalog.upstream_code import ensure_sources
from orchestrator.errors import BaseImageError, BuildError
from orchestrator.hardware.gpu_code import LABEL as LABEL
from orchestrator.hardware.gpu_code import MODULE, Binaries, parse
from orchestrator.paths import build_logs_folder, home
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import BuildInputs
from orchestrator.system.container_engine import Engine, build_command
from orchestrator.system.display import Report
from orchestrator.system.locks import hold_lock
from orchestrator.system.subprocesses import run_subprocess

NOT_READ = "what its GPU code runs on could not be read; stack.yaml's lists stand"
_CHATTER = re.compile(r"#\d+ (sha256:|transferring|DONE|CACHED|\[internal\] load)|-+$")
"""Lines of BuildKit's progress that say nothing about a failure."""


def with_default_base(options: BuildOptions) -> BuildOptions:
    """$ORCH_BASE_IMAGE stands in for every stack's base, on machines that reach no image registry."""
    base = options.base_image or os.environ.get("ORCH_BASE_IMAGE") or None
    return BuildOptions(base, options.rebuild, options.offline, options.build_args)


def image_tag(inputs: BuildInputs) -> str:
    """The image's name: it changes exactly when its content does."""
    return f"orch/{inputs.stack}:{inputs.variant}-{inputs.identity}"


def image_alias(stack: str, variant: str) -> str:
    """The name of a variant's image whatever its content: the one that was last asked for."""
    return f"orch/{stack}:{variant}"


def build_arguments(command: Sequence[str], inputs: BuildInputs, options: BuildOptions, folder: Path) -> list[str]:
    """The whole build command. A pure value."""
    arguments = [*command, "--tag", image_tag(inputs)]
    for name, value in inputs.arguments.items():
        arguments += ["--build-arg", f"{name}={value}"]
    labels = {"stack": inputs.stack, "variant": inputs.variant, "identity": inputs.identity, "content": inputs.content}
    labels["version"] = __version__
    for name, value in labels.items():
        arguments += ["--label", f"{LABEL}.{name}={value}"]
    if options.rebuild:
        arguments.append("--no-cache")
    return [*arguments, str(folder)]


def ensure_image(engine: Engine, inputs: BuildInputs, options: BuildOptions, report: Report) -> tuple[str, bool, float]:
    """Build the image unless the engine has it: (its id, whether it was built now, seconds).

    Raises BuildError; MachineError where the stack's sources cannot be fetched.
    """
    tag = image_tag(inputs)
    started = time.monotonic()
    with hold_lock(home() / "locks" / f"build-{inputs.stack}-{inputs.variant}.lock", wait=True):
        found = None if options.rebuild else image_id(engine, tag)
        if found is not None:
            point_alias(engine, inputs, found)
            return found, False, 0.0
        sources = ensure_sources(inputs.stack, inputs.sources, report, offline=options.offline)
        with tempfile.TemporaryDirectory(prefix="orch-build-") as folder:
            inputs.write_context(Path(folder), sources)
            _build(build_arguments(build_command(), inputs, options, Path(folder)), tag, report)
        built = image_id(engine, tag)
        if built is None:
            raise BuildError(f"the image {tag} was built, but the engine does not have it", hint="orch doctor")
        if inputs.for_gpus:
            built = _labelled(engine, tag, built, report)
        point_alias(engine, inputs, built)
    return built, True, time.monotonic() - started


def point_alias(engine: Engine, inputs: BuildInputs, image: str) -> None:
    """Let compose.yaml, which cannot know digests, find the image."""
    name, _, tag = image_alias(inputs.stack, inputs.variant).partition(":")
    engine.client.api.tag(image, name, tag, force=True)


def image_id(engine: Engine, tag: str) -> str | None:
    """The image's id, or None if the engine does not have it."""
    import docker.errors

    try:
        return str(engine.client.images.get(tag).id)
    except docker.errors.ImageNotFound:
        return None


def image_labels(engine: Engine, tag: str) -> dict[str, str] | None:
    """The image's labels, or None where the engine does not have it, or does not answer."""
    import docker.errors

    try:
        return dict(engine.client.images.get(tag).labels)
    except (docker.errors.DockerException, OSError):
        return None


def _labelled(engine: Engine, tag: str, image: str, report: Report) -> str:
    """Give a built image labels of what its GPU code runs on: its new id, or the old one where that cannot be read."""
    import docker.errors

    report("reading what its GPU code runs on")
    try:
        found = read_inside(engine, image)
    except (docker.errors.DockerException, OSError, ValueError, KeyError) as error:
        report(f"{NOT_READ}: {str(error)[:200]}")
        return image
    with tempfile.TemporaryDirectory(prefix="orch-label-") as folder:
        (Path(folder) / "Dockerfile").write_text(f"FROM {tag}\n", encoding="utf-8")
        _step(label_arguments(build_command(), tag, found, Path(folder)), tag, report)
    labelled = image_id(engine, tag)
    if labelled not in (None, image):
        with suppress(docker.errors.DockerException):  # all its layers are the labelled one's
            engine.client.images.remove(image)
    return labelled or image


def read_inside(engine: Engine, image: str) -> Binaries:
    """Run orch_runner.binaries in an image. Raises ValueError, or what the engine's SDK raises."""
    answer = engine.client.containers.run(
        image, ["python", "-m", MODULE], remove=True, network_mode="none", read_only=True, cap_drop=["ALL"],
        security_opt=["no-new-privileges"], environment={"NVIDIA_VISIBLE_DEVICES": "void"}, stderr=False,
    )  # fmt: skip
    return parse(answer.decode("utf-8", errors="replace"))


def label_arguments(command: Sequence[str], tag: str, found: Binaries, folder: Path) -> list[str]:
    """The build command that only adds labels. A pure value."""
    arguments = [*command, "--tag", tag]
    for name, value in found.labels().items():
        arguments += ["--label", f"{name}={value}"]
    return [*arguments, str(folder)]


def _build(command: list[str], tag: str, report: Report) -> None:
    _log(tag).unlink(missing_ok=True)
    report(f"building {tag}")
    _step(command, tag, report)


def _log(tag: str) -> Path:
    return build_logs_folder() / f"{tag.replace('/', '-').replace(':', '-')}.log"


def _step(command: list[str], tag: str, report: Report) -> None:
    """Run a build command. Raises BuildError."""
    log, environment = _log(tag), {**os.environ, "DOCKER_BUILDKIT": "1"}
    code, tail = run_subprocess(command, log, report, environment=environment, omit_from_tail=_CHATTER)
    if code != 0 and _base_is_missing(tail):
        raise BaseImageError(
            f"the base image of {tag} cannot be had",
            why=f"failed to{tail[-1].rpartition('failed to')[2]}",
            log=log,
            hint="another base image: --base-image IMAGE; or no image at all: --runtime venv",
        )
    if code != 0:
        raise BuildError(f"the image {tag} could not be built (exit {code})", why="\n".join(tail), log=log)


def _base_is_missing(tail: Sequence[str]) -> bool:
    text = " ".join(tail)
    return "failed to resolve source metadata" in text or "pull access denied" in text or "failed to do request" in text
