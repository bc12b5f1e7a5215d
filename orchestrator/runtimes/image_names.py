"""The names of images and of their files: they change exactly when the content does."""

from __future__ import annotations

from orchestrator.runtimes.build_inputs import BuildInputs


def image_tag(inputs: BuildInputs) -> str:
    """Return the name of an image."""
    return f"{image_alias(inputs.stack, inputs.variant)}-{inputs.identity}"


def image_alias(stack: str, variant: str) -> str:
    """Return the name of a variant's latest image, whatever its content."""
    return f"orch/{stack}:{variant}"


def archive_name(inputs: BuildInputs) -> str:
    """Return the file name of an image's archive."""
    return f"{inputs.stack}-{inputs.variant}-{inputs.identity}.tar.gz"


def sif_name(inputs: BuildInputs) -> str:
    """Return the file name of an image as Apptainer runs it."""
    return f"{inputs.stack}-{inputs.variant}-{inputs.identity}.sif"
