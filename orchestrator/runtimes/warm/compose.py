"""Make compose.yaml and compose.gpu.yaml from the catalog: a service per stack, hardened as one-shot workers are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.catalog import Catalog, StackEntry, Variant, Weights, bundled
from orchestrator.runtimes.build_inputs import image_alias
from orchestrator.runtimes.docker.runtime import isolation
from orchestrator.runtimes.mounts import GUEST
from orchestrator.runtimes.warm.compose_yaml import MERGE, InlineMapping, SharedMapping, render
from orchestrator.runtimes.warm.settings import (
    CHECK,
    CHECK_SECONDS,
    COMMAND,
    GUEST_SPOOL,
    LOG_OPTIONS,
    START_SECONDS,
    STOP_SECONDS,
    USER_LABEL,
    VARIANT_LABEL,
    common_environment,
    own_environment,
    warm_labels,
)
from orchestrator.runtimes.warm.spool import VariantSpool

DEMO_STACK = "garments"
"""The stack whose service is in no profile: it needs no GPU and no weights to fetch."""
PROJECT = "orch"
USER_ID = "${ORCH_UID:-1000}"
USER = f"{USER_ID}:${{ORCH_GID:-1000}}"
SPOOL = "${ORCH_SPOOL:-./spool}"
DATA = "${ORCH_DATA:-./data}"
HOME = "${ORCH_HOME:-${HOME}/.cache/orch}"
CHOICES = {
    "ORCH_DATA_HOST": "${ORCH_DATA:-}",
    "ORCH_IDLE_SECONDS": "${ORCH_IDLE_SECONDS:-900}",
    "ORCH_MEMORY_MB": "${ORCH_MEMORY_MB:-}",
    "ORCH_THREADS": "${ORCH_THREADS:-}",
}
"""Settings that .env or the shell may change."""
HEADER = """\
# Warm workers, one service per stack. Made from the catalog: orch compose --out compose.yaml
#
#   docker compose up -d --build --wait                      the demo stack alone: no GPU, no weights to fetch
#   docker compose --profile STACK up -d --build --wait      another one too; --profile all for all of them
#   docker compose --profile all down                        stop them
#   docker compose -f compose.yaml -f compose.gpu.yaml …     on the GPU
#
# .env sets the user that workers run as and the images that they see: orch compose --env --out .env
# That also makes the folders that are mounted. Each worker sees only the spool's folder of its own stack and variant.
"""
GPU_HEADER = """\
# The GPU settings of compose.yaml, and nothing else. Made from the catalog: orch compose --gpu --out compose.gpu.yaml
#
#   docker compose -f compose.yaml -f compose.gpu.yaml --profile STACK up -d --build --wait
"""


def compose_text(catalog: Catalog, root: Path) -> str:
    """Return the text of a compose.yaml in the folder `root`. Raises SpecError for a missing Dockerfile."""
    comments = {
        stack.name: f"Its image is built first: orch build {stack.name} --runtime docker --variant {_cpu(stack)}"
        for stack in _stacks(catalog)
        if not _is_built_here(stack, _cpu(stack), root)
    }
    return render(HEADER, compose_document(catalog, root), comments)


def gpu_text(catalog: Catalog, root: Path) -> str:
    """Return the text of a compose.gpu.yaml beside compose.yaml in the folder `root`."""
    comments = {
        stack.name: f"Its image is built first: orch build {stack.name} --runtime docker --variant {variant}"
        for stack, variant in _gpu_variants(catalog)
        if not _is_built_here(stack, variant, root)
    }
    return render(GPU_HEADER, gpu_document(catalog, root), comments)


def compose_document(catalog: Catalog, root: Path) -> dict[str, Any]:
    """Return all stacks' services, with the CPU variants; paths inside `root` are relative to it."""
    worker = SharedMapping("worker", _hardened())
    environment = SharedMapping("environment", {**common_environment(), **CHOICES})
    stacks = _stacks(catalog)
    return {
        "name": PROJECT,
        "x-worker": worker,
        "x-environment": environment,
        "services": {stack.name: _service(stack, worker, environment, root) for stack in stacks},
        "volumes": {_cache(stack, _cpu(stack)): {} for stack in stacks},
    }


def gpu_document(catalog: Catalog, root: Path) -> dict[str, Any]:
    """Return what a GPU changes in the services whose stack has a variant for GPUs."""
    chosen = _gpu_variants(catalog)
    return {
        "services": {stack.name: _on_the_gpu(stack, variant, root) for stack, variant in chosen},
        "volumes": {_cache(stack, variant): {} for stack, variant in chosen},
    }


def gpu_variant(variants: Mapping[str, Variant]) -> str | None:
    """Return the variant with code for the most GPU generations, the first of equals; or None."""
    usable = {name: spec for name, spec in variants.items() if spec.device == "cuda" and not spec.on_request}
    return max(usable, key=lambda name: len(_generations(usable[name])), default=None)


def _generations(variant: Variant) -> set[str]:
    return {capability.partition(".")[0] for capability in variant.native_capabilities}


def _stacks(catalog: Catalog) -> list[StackEntry]:
    """Return the stacks with a variant for the CPU, the demo's first."""
    stacks = [stack for stack in catalog.stacks.values() if _cpu_variant(stack) is not None]
    return sorted(stacks, key=lambda stack: stack.name != DEMO_STACK)


def _cpu_variant(stack: StackEntry) -> str | None:
    variants = stack.spec.variants.items()
    return next((name for name, spec in variants if spec.device == "cpu" and not spec.on_request), None)


def _cpu(stack: StackEntry) -> str:
    variant = _cpu_variant(stack)
    assert variant is not None, stack.name
    return variant


def _gpu_variants(catalog: Catalog) -> list[tuple[StackEntry, str]]:
    variants = [(stack, gpu_variant(stack.spec.variants)) for stack in _stacks(catalog)]
    return [(stack, variant) for stack, variant in variants if variant is not None]


def service_variants(catalog: Catalog) -> list[tuple[str, str]]:
    """Return (stack, variant) of all services of both files."""
    variants = [(stack.name, _cpu(stack)) for stack in _stacks(catalog)]
    return variants + [(stack.name, variant) for stack, variant in _gpu_variants(catalog)]


def _spool_mount(stack: StackEntry, variant: str) -> dict[str, Any]:
    return _bind(f"{SPOOL}/{VariantSpool(Path(), stack.name, variant).name}", GUEST_SPOOL, read_only=False)


def _cache(stack: StackEntry, variant: str) -> str:
    return f"{stack.name}-{variant}-cache"


def _cache_mount(stack: StackEntry, variant: str) -> dict[str, Any]:
    return InlineMapping({"type": "volume", "source": _cache(stack, variant), "target": str(GUEST["cache"])})


def _hardened() -> dict[str, Any]:
    """Return what all services share."""
    return {
        "command": COMMAND,
        **compose_isolation(isolation((), (0, 0)), USER),
        "stop_grace_period": f"{STOP_SECONDS}s",
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", *CHECK],
            "interval": f"{CHECK_SECONDS}s",
            "timeout": "10s",
            "retries": 3,
            "start_period": f"{START_SECONDS}s",
        },
        "logging": {"driver": "json-file", "options": InlineMapping(LOG_OPTIONS)},
    }


def compose_isolation(settings: Mapping[str, Any], user: str) -> dict[str, Any]:
    """Return the engine API's isolation settings with the names of Compose, for another user."""
    limits = {
        limit["Name"]: InlineMapping({"soft": limit["Soft"], "hard": limit["Hard"]}) for limit in settings["ulimits"]
    }
    tmpfs = [f"{target}:{options}" for target, options in settings["tmpfs"].items()]
    return {**settings, "user": user, "ulimits": limits, "tmpfs": tmpfs}


def _service(stack: StackEntry, worker: SharedMapping, environment: SharedMapping, root: Path) -> dict[str, Any]:
    variant = _cpu(stack)
    return {
        MERGE: worker,
        **({} if stack.name == DEMO_STACK else {"profiles": [stack.name, "all"]}),
        "image": image_alias(stack.name, variant),
        **_build(stack, variant, root),
        "labels": InlineMapping({**warm_labels(stack.name, variant), USER_LABEL: USER_ID}),
        "environment": {MERGE: environment, **own_environment(stack, variant)},
        "volumes": [
            _spool_mount(stack, variant),
            _bind(DATA, GUEST["data"]),
            *_weights(stack, root),
            _cache_mount(stack, variant),
        ],
    }


def _on_the_gpu(stack: StackEntry, variant: str, root: Path) -> dict[str, Any]:
    gpu = InlineMapping({"driver": "nvidia", "count": 1, "capabilities": ["gpu"]})
    return {
        "image": image_alias(stack.name, variant),
        **_build(stack, variant, root),
        "labels": {VARIANT_LABEL: variant},
        "environment": {"ORCH_VARIANT": variant, "ORCH_DEVICE": "cuda"},
        "volumes": [_spool_mount(stack, variant), _cache_mount(stack, variant)],
        "deploy": {"resources": {"reservations": {"devices": [gpu]}}},
    }


def _is_built_here(stack: StackEntry, variant: str, root: Path) -> bool:
    """Return whether Compose can build a stack from `root`: no upstream code, all arguments have defaults."""
    arguments = stack.spec.variants[variant].build_args.values()
    parts = (stack.folder, stack.dockerfile, bundled.RUNNER)
    return (
        not stack.spec.sources
        and all(argument.default is not None for argument in arguments)
        and all(part.is_relative_to(root) for part in parts)
    )


def _build(stack: StackEntry, variant: str, root: Path) -> dict[str, Any]:
    """Return how Compose gets the image: it builds it from `root`, or expects it to exist."""
    if not _is_built_here(stack, variant, root):
        return {"pull_policy": "never"}
    spec = stack.spec.variants[variant]
    folder = _inside(stack.folder, root)
    arguments = {
        "BASE_IMAGE": f"${{ORCH_BASE_IMAGE:-{spec.base_image}}}",
        "LOCK": f"{folder}/{spec.lock}",
        **({} if spec.build_lock is None else {"BUILD_LOCK": f"{folder}/{spec.build_lock}"}),
        "RUNNER": _inside(bundled.RUNNER, root),
        "STACK": folder,
        **{name: str(argument.default) for name, argument in spec.build_args.items()},
    }
    return {"build": {"context": ".", "dockerfile": _inside(stack.dockerfile, root), "args": arguments}}


def _inside(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _weights(stack: StackEntry, root: Path) -> list[dict[str, Any]]:
    """Return the mounts of the weights: none if the image has them, the stack's own folders, or the cache."""
    models = [name for name, model in stack.spec.models.items() if model.weights]
    weights = [(name, file) for name in models for file in stack.spec.models[name].weights.values()]
    if all(file.package is not None for _, file in weights):
        return []
    own = {(name, _bundled_folder(file)) for name, file in weights}
    if len(own) == len(models) and all(folder is not None for _, folder in own):
        return [
            _bind(_source(stack.folder / str(folder), root), GUEST["weights"] / name) for name, folder in sorted(own)
        ]
    return [_bind(f"{HOME}/weights/{stack.name}", GUEST["weights"])]


def _bundled_folder(weights: Weights) -> PurePosixPath | None:
    """Return the stack's folder that has the file under the name that workers expect; or None."""
    bundled = None if weights.bundled is None else PurePosixPath(weights.bundled)
    return bundled.parent if bundled is not None and bundled.name == weights.file else None


def _source(path: Path, root: Path) -> str:
    return f"./{_inside(path, root)}" if path.is_relative_to(root) else str(path)


def _bind(source: str, target: PurePosixPath, *, read_only: bool = True) -> dict[str, Any]:
    """Return a bind mount; a missing source is an error instead of a new folder that belongs to root."""
    mount = {"type": "bind", "source": source, "target": str(target)}
    return InlineMapping({**mount, **({"read_only": True} if read_only else {}), "bind": {"create_host_path": False}})
