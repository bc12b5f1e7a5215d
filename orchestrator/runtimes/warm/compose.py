"""compose.yaml and compose.gpu.yaml out of the catalog: a service per stack, as hardened as one-shot workers are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.catalog import bundled as resources
from orchestrator.catalog.loader import Catalog, StackEntry
from orchestrator.catalog.spec import Variant, Weights
from orchestrator.runtimes.build_inputs import image_alias
from orchestrator.runtimes.docker.runtime import isolation
from orchestrator.runtimes.mounts import GUEST
from orchestrator.runtimes.warm.compose_yaml import MERGE, Line, Shared, render
from orchestrator.runtimes.warm.settings import (
    CHECK,
    CHECK_SECONDS,
    COMMAND,
    GUEST_SPOOL,
    LOG_OPTIONS,
    START_SECONDS,
    STOP_SECONDS,
    VARIANT_LABEL,
    common_environment,
    own_environment,
    warm_labels,
)

DEMO_STACK = "garments"
"""Its service is in no profile: it needs no GPU, and its weights come with it."""
PROJECT = "orch"
USER = "${ORCH_UID:-1000}:${ORCH_GID:-1000}"
SPOOL = "${ORCH_SPOOL:-./spool}"
DATA = "${ORCH_DATA:-./data}"
HOME = "${ORCH_HOME:-${HOME}/.cache/orch}"
CHOICES = {
    "ORCH_DATA_HOST": "${ORCH_DATA:-}",
    "ORCH_IDLE_SECONDS": "${ORCH_IDLE_SECONDS:-900}",
    "ORCH_MEMORY_MB": "${ORCH_MEMORY_MB:-}",
    "ORCH_THREADS": "${ORCH_THREADS:-}",
}
"""What .env or the shell may set."""
HEADER = """\
# Warm workers, one service per stack. Made from the catalog: orch compose --out compose.yaml
#
#   docker compose up -d --build --wait                      the demo stack alone: no GPU, no weights to fetch
#   docker compose --profile STACK up -d --build --wait      another one too; --profile all for all of them
#   docker compose --profile all down                        end them
#   docker compose -f compose.yaml -f compose.gpu.yaml …     on the GPU
#
# Who workers run as and which images they see is said in .env: orch compose --env --out .env
"""
GPU_HEADER = """\
# The GPU settings of compose.yaml, and nothing else. Made from the catalog: orch compose --gpu --out compose.gpu.yaml
#
#   docker compose -f compose.yaml -f compose.gpu.yaml --profile STACK up -d --build --wait
"""


def compose_text(catalog: Catalog, root: Path) -> str:
    """The whole compose.yaml, to lie in `root`. Raises SpecError for a Dockerfile that is not there."""
    comments = {
        stack.name: f"Its image is built first: orch build {stack.name} --runtime docker --variant {_cpu(stack)}"
        for stack in _stacks(catalog)
        if not _is_built_here(stack, _cpu(stack), root)
    }
    return render(HEADER, compose_document(catalog, root), comments)


def gpu_text(catalog: Catalog, root: Path) -> str:
    """The whole compose.gpu.yaml, to lie beside compose.yaml in `root`."""
    comments = {
        stack.name: f"Its image is built first: orch build {stack.name} --runtime docker --variant {variant}"
        for stack, variant in _gpu_variants(catalog)
        if not _is_built_here(stack, variant, root)
    }
    return render(GPU_HEADER, gpu_document(catalog, root), comments)


def compose_document(catalog: Catalog, root: Path) -> dict[str, Any]:
    """The services of all stacks, each with its variant for the CPU; what lies inside `root` is relative to it."""
    worker = Shared("worker", _hardened())
    environment = Shared("environment", {**common_environment(), **CHOICES})
    stacks = _stacks(catalog)
    return {
        "name": PROJECT,
        "x-worker": worker,
        "x-environment": environment,
        "services": {stack.name: _service(stack, worker, environment, root) for stack in stacks},
        "volumes": {_cache(stack, _cpu(stack)): {} for stack in stacks},
    }


def gpu_document(catalog: Catalog, root: Path) -> dict[str, Any]:
    """What the GPU changes of services whose stack has a variant for one."""
    chosen = _gpu_variants(catalog)
    return {
        "services": {stack.name: _on_the_gpu(stack, variant, root) for stack, variant in chosen},
        "volumes": {_cache(stack, variant): {} for stack, variant in chosen},
    }


def gpu_variant(variants: Mapping[str, Variant]) -> str | None:
    """The variant that has code for the most generations of GPUs, the first of equals; None where there is none."""
    fit = {name: one for name, one in variants.items() if one.device == "cuda" and not one.on_request}
    return max(fit, key=lambda name: len(_generations(fit[name])), default=None)


def _generations(variant: Variant) -> set[str]:
    return {capability.partition(".")[0] for capability in variant.native_capabilities}


def _stacks(catalog: Catalog) -> list[StackEntry]:
    """Those with a variant for the CPU, the demo's first."""
    fit = [stack for stack in catalog.stacks.values() if _cpu_variant(stack) is not None]
    return sorted(fit, key=lambda stack: stack.name != DEMO_STACK)


def _cpu_variant(stack: StackEntry) -> str | None:
    variants = stack.spec.variants.items()
    return next((name for name, one in variants if one.device == "cpu" and not one.on_request), None)


def _cpu(stack: StackEntry) -> str:
    variant = _cpu_variant(stack)
    assert variant is not None, stack.name
    return variant


def _gpu_variants(catalog: Catalog) -> list[tuple[StackEntry, str]]:
    found = [(stack, gpu_variant(stack.spec.variants)) for stack in _stacks(catalog)]
    return [(stack, variant) for stack, variant in found if variant is not None]


def _cache(stack: StackEntry, variant: str) -> str:
    return f"{stack.name}-{variant}-cache"


def _cache_mount(stack: StackEntry, variant: str) -> dict[str, Any]:
    return Line({"type": "volume", "source": _cache(stack, variant), "target": str(GUEST["cache"])})


def _hardened() -> dict[str, Any]:
    """What all services share."""
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
        "logging": {"driver": "json-file", "options": Line(LOG_OPTIONS)},
    }


def compose_isolation(settings: Mapping[str, Any], user: str) -> dict[str, Any]:
    """The engine API's isolation in Compose's words, for another user."""
    limits = {limit["Name"]: Line({"soft": limit["Soft"], "hard": limit["Hard"]}) for limit in settings["ulimits"]}
    tmpfs = [f"{target}:{options}" for target, options in settings["tmpfs"].items()]
    return {**settings, "user": user, "ulimits": limits, "tmpfs": tmpfs}


def _service(stack: StackEntry, worker: Shared, environment: Shared, root: Path) -> dict[str, Any]:
    variant = _cpu(stack)
    return {
        MERGE: worker,
        **({} if stack.name == DEMO_STACK else {"profiles": [stack.name, "all"]}),
        "image": image_alias(stack.name, variant),
        **_build(stack, variant, root),
        "labels": Line(warm_labels(stack.name, variant)),
        "environment": {MERGE: environment, **own_environment(stack, variant)},
        "volumes": [
            _bind(SPOOL, GUEST_SPOOL, read_only=False),
            _bind(DATA, GUEST["data"]),
            *_weights(stack, root),
            _cache_mount(stack, variant),
        ],
    }


def _on_the_gpu(stack: StackEntry, variant: str, root: Path) -> dict[str, Any]:
    one = Line({"driver": "nvidia", "count": 1, "capabilities": ["gpu"]})
    return {
        "image": image_alias(stack.name, variant),
        **_build(stack, variant, root),
        "labels": {VARIANT_LABEL: variant},
        "environment": {"ORCH_VARIANT": variant, "ORCH_DEVICE": "cuda"},
        "volumes": [_cache_mount(stack, variant)],
        "deploy": {"resources": {"reservations": {"devices": [one]}}},
    }


def _is_built_here(stack: StackEntry, variant: str, root: Path) -> bool:
    """Whether Compose can build a stack from `root` alone: no upstream code to fetch, nothing to be asked for."""
    arguments = stack.spec.variants[variant].build_args.values()
    parts = (stack.folder, stack.dockerfile, resources.RUNNER)
    return (
        not stack.spec.sources
        and all(argument.default is not None for argument in arguments)
        and all(part.is_relative_to(root) for part in parts)
    )


def _build(stack: StackEntry, variant: str, root: Path) -> dict[str, Any]:
    """How Compose gets the image: by building it from `root`, or not at all."""
    if not _is_built_here(stack, variant, root):
        return {"pull_policy": "never"}
    spec = stack.spec.variants[variant]
    folder = _inside(stack.folder, root)
    arguments = {
        "BASE_IMAGE": f"${{ORCH_BASE_IMAGE:-{spec.base_image}}}",
        "LOCK": f"{folder}/{spec.lock}",
        **({} if spec.build_lock is None else {"BUILD_LOCK": f"{folder}/{spec.build_lock}"}),
        "RUNNER": _inside(resources.RUNNER, root),
        "STACK": folder,
        **{name: str(argument.default) for name, argument in spec.build_args.items()},
    }
    return {"build": {"context": ".", "dockerfile": _inside(stack.dockerfile, root), "args": arguments}}


def _inside(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _weights(stack: StackEntry, root: Path) -> list[dict[str, Any]]:
    """Nothing where all weights are in the image, the stack's own folders where they come with it, else the cache."""
    models = [name for name, model in stack.spec.models.items() if model.weights]
    weights = [(name, one) for name in models for one in stack.spec.models[name].weights.values()]
    if all(one.package is not None for _, one in weights):
        return []
    own = {(name, _folder_it_comes_in(one)) for name, one in weights}
    if len(own) == len(models) and all(folder is not None for _, folder in own):
        return [
            _bind(_place(stack.folder / str(folder), root), GUEST["weights"] / name) for name, folder in sorted(own)
        ]
    return [_bind(f"{HOME}/weights/{stack.name}", GUEST["weights"])]


def _folder_it_comes_in(weights: Weights) -> PurePosixPath | None:
    """The folder inside the stack's own that holds the file under the name a worker expects."""
    bundled = None if weights.bundled is None else PurePosixPath(weights.bundled)
    return bundled.parent if bundled is not None and bundled.name == weights.file else None


def _place(path: Path, root: Path) -> str:
    return f"./{_inside(path, root)}" if path.is_relative_to(root) else str(path)


def _bind(source: str, target: PurePosixPath, *, read_only: bool = True) -> dict[str, Any]:
    """A bind mount; a source that is missing is an error, not a new folder of root's."""
    mount = {"type": "bind", "source": source, "target": str(target)}
    return Line({**mount, **({"read_only": True} if read_only else {}), "bind": {"create_host_path": False}})
