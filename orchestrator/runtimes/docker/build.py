"""Build a variant's image with the command line's BuildKit; the tag follows from the content."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.catalog import ensure_sources
from orchestrator.errors import BaseImageError, BuildError, MachineError
from orchestrator.hardware import LABEL, MODULE, GpuCode, parse_gpu_code
from orchestrator.paths import build_logs_folder, home
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_failure import build_error
from orchestrator.runtimes.build_inputs import BuildInputs, image_alias
from orchestrator.runtimes.docker.build_network import network_arguments
from orchestrator.system import Engine, Report, __version__, build_command, hold_lock, run_subprocess

NOT_READ = "cannot read what its GPU code runs on; the lists in stack.yaml are used"
_CHATTER = re.compile(r"#\d+ (sha256:|transferring|DONE|CACHED|\[internal\] load)|-+$")
"""Lines of BuildKit's progress that say nothing about a failure."""


@dataclass(frozen=True)
class InspectedImage:
    """An image that the engine has."""

    id: str
    labels: Mapping[str, str]


def build_arguments(command: Sequence[str], inputs: BuildInputs, options: BuildOptions, folder: Path) -> list[str]:
    """Return the whole build command. A pure value."""
    arguments = [*command, "--tag", inputs.image_tag]
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
    """Build the image unless the engine has it; return its id, whether it was built now, and seconds.

    Raises BuildError; MachineError where the stack's sources cannot be fetched.
    """
    tag = inputs.image_tag
    started = time.monotonic()
    with hold_lock(home() / "locks" / f"build-{inputs.stack}-{inputs.variant}.lock", wait=True):
        present = None if options.rebuild else inspect_image(engine, tag)
        if present is not None:
            point_alias(engine, inputs, present.id)
            return present.id, False, 0.0
        sources = ensure_sources(inputs.stack, inputs.sources, report, offline=options.offline)
        with tempfile.TemporaryDirectory(prefix="orch-build-") as folder:
            inputs.write_context(Path(folder), sources)
            with network_arguments(os.environ) as network:
                command = build_arguments([*build_command(), *network], inputs, options, Path(folder))
                _build(command, tag, report)
        built = inspect_image(engine, tag)
        if built is None:
            raise BuildError(f"the image {tag} was built, but the engine does not have it", hint="orch doctor")
        image = _add_labels(engine, tag, built.id, report) if inputs.for_gpus else built.id
        point_alias(engine, inputs, image)
    return image, True, time.monotonic() - started


def point_alias(engine: Engine, inputs: BuildInputs, image: str) -> None:
    """Tag the image with the variant's name, which compose.yaml uses: it cannot know digests."""
    name, _, tag = image_alias(inputs.stack, inputs.variant).partition(":")
    engine.client.api.tag(image, name, tag, force=True)


def inspect_image(engine: Engine, tag: str) -> InspectedImage | None:
    """Return the image of that name; None where the engine does not have it. Raises MachineError."""
    import docker.errors

    try:
        image = engine.client.images.get(tag)
    except docker.errors.ImageNotFound:
        return None
    except (docker.errors.DockerException, OSError) as error:
        raise MachineError(f"the container engine does not answer about {tag}", why=str(error)) from error
    return InspectedImage(str(image.id), dict(image.labels))


def _add_labels(engine: Engine, tag: str, image: str, report: Report) -> str:
    """Label an image with what its GPU code runs on; return its new id, or the old one if unknown."""
    import docker.errors

    report("reading what its GPU code runs on")
    try:
        code = read_inside(engine, image)
    except (docker.errors.DockerException, OSError, ValueError) as error:
        report(f"{NOT_READ}: {str(error)[:200]}")
        return image
    with tempfile.TemporaryDirectory(prefix="orch-label-") as folder:
        (Path(folder) / "Dockerfile").write_text(f"FROM {tag}\n", encoding="utf-8")
        _run(label_arguments(build_command(), tag, code, Path(folder)), tag, report)
    labelled = inspect_image(engine, tag)
    if labelled is None:
        return image
    if labelled.id != image:
        with suppress(docker.errors.DockerException):  # all its layers are the labelled one's
            engine.client.images.remove(image)
    return labelled.id


def read_inside(engine: Engine, image: str) -> GpuCode:
    """Run orch_runner.gpu.binaries in an image. Raises ValueError, or what the engine's SDK raises."""
    answer = engine.client.containers.run(
        image, ["python", "-m", MODULE], remove=True, network_mode="none", read_only=True, cap_drop=["ALL"],
        security_opt=["no-new-privileges"], environment={"NVIDIA_VISIBLE_DEVICES": "void"}, stderr=False,
    )  # fmt: skip
    return parse_gpu_code(answer.decode("utf-8", errors="replace"))


def label_arguments(command: Sequence[str], tag: str, code: GpuCode, folder: Path) -> list[str]:
    """Return the build command that only adds labels. A pure value."""
    arguments = [*command, "--tag", tag]
    for name, value in code.labels().items():
        arguments += ["--label", f"{name}={value}"]
    return [*arguments, str(folder)]


def _build(command: list[str], tag: str, report: Report) -> None:
    _log(tag).unlink(missing_ok=True)
    report(f"building {tag}")
    _run(command, tag, report)


def _log(tag: str) -> Path:
    return build_logs_folder() / f"{tag.replace('/', '-').replace(':', '-')}.log"


def _run(command: list[str], tag: str, report: Report) -> None:
    """Run a build command. Raises BuildError."""
    log, environment = _log(tag), {**os.environ, "DOCKER_BUILDKIT": "1"}
    code, tail = run_subprocess(command, log, report, environment=environment, omit_from_tail=_CHATTER)
    if code != 0 and _is_base_missing(tail):
        raise BaseImageError(
            f"cannot pull the base image of {tag}",
            why=f"failed to{tail[-1].rpartition('failed to')[2]}",
            log=log,
            hint="another base image: --base-image IMAGE; or no image at all: --runtime venv",
        )
    if code != 0:
        raise build_error(f"cannot build the image {tag} (exit {code})", tail, log)


def _is_base_missing(tail: Sequence[str]) -> bool:
    text = " ".join(tail)
    return "failed to resolve source metadata" in text or "pull access denied" in text or "failed to do request" in text
