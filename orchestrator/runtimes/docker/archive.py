"""Image archives of the docker runtime: written for other machines, loaded where there is one instead of building."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware.gpu_code import LABEL
from orchestrator.paths import images_folder
from orchestrator.runtimes.base import BuildOptions, Prepared
from orchestrator.runtimes.build_inputs import BuildInputs, build_inputs
from orchestrator.runtimes.docker.build import ensure_image, image_id, image_tag, point_alias, with_default_base
from orchestrator.runtimes.docker.image_archives import (
    archive_in,
    find_archive,
    load_archive,
    machine_lock,
    write_archive,
)
from orchestrator.system.container_engine import Engine, connect
from orchestrator.system.display import Report
from orchestrator.system.locks import hold_lock


def loaded_from_archive(engine: Engine, inputs: BuildInputs, report: Report) -> str | None:
    """The id of the image, loaded from its archive if there is one: once per machine, however many workers ask.

    Raises MachineError for an archive that cannot be read or holds another image.
    """
    archive = find_archive(inputs)
    if archive is None:
        return None
    tag = image_tag(inputs)
    with hold_lock(machine_lock(f"load-{inputs.identity}"), wait=True):
        if (found := image_id(engine, tag)) is not None:
            return found
        report(f"loading {archive}")
        load_archive(engine, archive)
        found = image_id(engine, tag)
        labels = {} if found is None else engine.client.images.get(found).labels
    if labels.get(f"{LABEL}.identity") != inputs.identity:
        raise MachineError(
            f"{archive} does not hold the image {tag}",
            why=f"it is labelled {labels.get(f'{LABEL}.identity')}" if labels else "no image of that name came out",
            hint=f"remove it, and write it again: orch build {inputs.stack} --variant {inputs.variant} --archive",
        )
    assert found is not None
    point_alias(engine, inputs, found)
    return found


def ensure_archive(
    engine: Engine, inputs: BuildInputs, options: BuildOptions, report: Report, folder: Path | None = None
) -> Path:
    """The archive of the image in `folder` (None: where all are looked for), written unless it is there.

    Raises BuildError, MachineError.
    """
    path = archive_in(folder or images_folder(), inputs)
    if not path.is_file() or options.rebuild:
        image, _, _ = ensure_image(engine, inputs, options, report)
        report(f"writing {path}")
        write_archive(engine, image, image_tag(inputs), path)
    return path


def archived(prepared: Prepared, options: BuildOptions, report: Report, folder: Path | None) -> Path:
    """The archive of what the docker runtime prepared. Raises UsageError for another runtime, MachineError."""
    if prepared.runtime != "docker":
        raise UsageError(f"the runtime {prepared.runtime} makes no images to archive", hint="--runtime docker")
    inputs = build_inputs(prepared.stack, prepared.variant, with_default_base(options))
    return ensure_archive(connect(), inputs, replace(options, rebuild=False), report, folder)
