"""Leftovers in the container engine, known by their labels: containers that ended, images that nothing needs now."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from orchestrator.catalog.loader import Catalog, StackEntry
from orchestrator.errors import MachineError, OrchError
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.docker.build import LABEL, image_alias, with_default_base
from orchestrator.system.container_engine import Engine, connect
from orchestrator.workflows.prune.leftovers import Leftover, Scope

SETTLED_SECONDS = 600
"""A container that ended just now may still be read by the run that it belongs to."""
ENDED = ("exited", "dead", "created")


@dataclass(frozen=True)
class Image:
    """An image as the engine lists it."""

    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    bytes: int
    made: float = 0
    """Seconds since the epoch."""

    def label(self, name: str) -> str:
        """Of orch's labels; empty where there is none."""
        return self.labels.get(f"{LABEL}.{name}", "")

    @property
    def names(self) -> tuple[str, str]:
        """Those that orch gives it: the one that says its identity, and that of the variant's last."""
        alias = image_alias(self.label("stack"), self.label("variant"))
        return f"{alias}-{self.label('identity')}", alias

    @property
    def is_ours(self) -> bool:
        """Built by orch, and of no name but orch's: images derived from it inherit its labels, not its names."""
        labelled = all(self.label(name) for name in ("stack", "variant", "identity"))
        return labelled and all(tag.removeprefix("localhost/") in self.names for tag in self.tags)


@dataclass(frozen=True)
class Current:
    """A variant as it would be built now: `content` is all that goes into it but build arguments such as the base."""

    identity: str
    content: str


def current_variants(catalog: Catalog) -> dict[tuple[str, str], Current]:
    """By stack and variant; those that cannot be read are left out, and so never called old."""
    found: dict[tuple[str, str], Current] = {}
    for stack in catalog.stacks.values():
        for name in stack.spec.variants:
            try:
                found[stack.name, name] = _current(stack, name)
            except (OrchError, OSError):
                continue
    return found


def _current(stack: StackEntry, variant: str) -> Current:
    spec = stack.spec.variants[variant]
    left_open = {name: "" for name, argument in spec.build_args.items() if argument.default is None}
    inputs = build_inputs(stack, variant, with_default_base(BuildOptions(build_args=left_open)))
    return Current(inputs.identity, inputs.content)


def why_unneeded(
    image: Image, catalog: Catalog, current: Mapping[tuple[str, str], Current], scope: Scope
) -> str | None:
    """Why an image of orch's can go; None where it is to stay."""
    stack, variant = image.label("stack"), image.label("variant")
    if not (image.is_ours and scope.covers(stack) and scope.is_old(image.made)):
        return None
    if scope.everything:
        return "--all"
    if not image.tags:
        return "replaced by a build of the same name"
    now = current.get((stack, variant))
    if now is not None:
        same = now.content == image.label("content") or now.identity == image.label("identity")
        return None if same else f"an older {variant} of {stack}"
    return f"{stack} has no variant {variant} any more" if _is_gone(catalog, stack, variant) else None


def _is_gone(catalog: Catalog, stack: str, variant: str) -> bool:
    """Stacks that are not known here may be another --stacks folder's."""
    return stack in catalog.stacks and variant not in catalog.stacks[stack].spec.variants


def engine_leftovers(catalog: Catalog, scope: Scope) -> tuple[list[Leftover], list[str]]:
    """Containers, then images; and a note where no engine answers."""
    try:
        engine = connect()
    except MachineError as error:
        return [], [f"{error.message}: images and containers were not looked for"]
    listed = engine.client.api.containers(all=True)
    ended = list(_ended(engine, listed, scope))
    gone = {container["Id"] for container, _ in ended}
    in_use = {container["ImageID"] for container in listed if container["Id"] not in gone}
    images = [image for image in _images(engine) if image.id not in in_use]
    return [leftover for _, leftover in ended] + list(_old_images(engine, images, catalog, scope)), []


def _ended(engine: Engine, listed: Sequence[Mapping[str, Any]], scope: Scope) -> Iterator[tuple[Any, Leftover]]:
    for container in listed:
        labels = container.get("Labels") or {}
        if f"{LABEL}.run" not in labels or not scope.covers(labels.get(f"{LABEL}.stack")):
            continue
        if container.get("State") not in ENDED or not _has_settled(engine, container["Id"]):
            continue
        name = (container.get("Names") or [container["Id"][:12]])[0].lstrip("/")
        remove = partial(_remove, engine.client.api.remove_container, container["Id"])
        yield container, Leftover("container", name, 0, f"{container['State']}; its run ended without it", remove)


def _has_settled(engine: Engine, identifier: str) -> bool:
    """Whether it ended long enough ago; False where it is gone meanwhile."""
    try:
        state = engine.client.api.inspect_container(identifier)
    except Exception:
        return False
    ended = state["State"].get("FinishedAt") or ""
    moment = state["Created"] if ended.startswith("0001") or not ended else ended
    return time.time() - datetime.fromisoformat(moment[:19] + "+00:00").timestamp() > SETTLED_SECONDS


def _images(engine: Engine) -> Iterator[Image]:
    for one in engine.client.api.images(filters={"label": f"{LABEL}.identity"}):
        tags = tuple(tag for tag in one.get("RepoTags") or () if not tag.startswith("<none>"))
        yield Image(one["Id"], tags, one.get("Labels") or {}, int(one.get("Size") or 0), float(one["Created"]))


def _old_images(engine: Engine, images: Collection[Image], catalog: Catalog, scope: Scope) -> Iterator[Leftover]:
    current = current_variants(catalog)
    for image in images:
        why = why_unneeded(image, catalog, current, scope)
        if why is not None:
            shown = image.names[0] if image.tags else f"{image.names[0]} ({image.id.removeprefix('sha256:')[:12]})"
            remove = partial(_remove, engine.client.api.remove_image, *(image.tags or (image.id,)))
            yield Leftover("image", shown, image.bytes, why, remove)


def _remove(action: Any, *names: str) -> str | None:
    """Never by force: what the engine says is in use stays."""
    from docker.errors import APIError, NotFound

    for name in names:
        try:
            action(name)
        except NotFound:
            continue
        except (APIError, OSError) as error:
            return str(getattr(error, "explanation", None) or error)
    return None
