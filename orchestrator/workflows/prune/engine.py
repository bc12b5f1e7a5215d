"""Leftovers in the container engine: containers that ended, images that no stack needs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from orchestrator.catalog import Catalog
from orchestrator.errors import MachineError, OrchError
from orchestrator.hardware import LABEL
from orchestrator.runtimes import BuildOptions, image_alias, image_inputs
from orchestrator.system import Engine, connect
from orchestrator.workflows.prune.leftovers import Leftover, Scope

SETTLED_SECONDS = 600  # a container that ended more recently may still be read by its run
ENDED = ("exited", "dead", "created")


@dataclass(frozen=True)
class EngineImage:
    """An image as the engine lists it."""

    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    bytes: int
    made: float = 0  # seconds since the epoch

    def label(self, name: str) -> str:
        """Return the value of one of orch's labels; empty where it is missing."""
        return self.labels.get(f"{LABEL}.{name}", "")

    @property
    def names(self) -> tuple[str, str]:
        """The names that orch gives it: one with its identity, and that of the variant's latest image."""
        alias = image_alias(self.label("stack"), self.label("variant"))
        return f"{alias}-{self.label('identity')}", alias

    @property
    def is_ours(self) -> bool:
        """Whether orch built it and it has no other names; derived images inherit labels, not names."""
        labelled = all(self.label(name) for name in ("stack", "variant", "identity"))
        return labelled and all(tag.removeprefix("localhost/") in self.names for tag in self.tags)


@dataclass(frozen=True)
class CurrentVariant:
    """A variant as it would be built now; `content` is the hash of its inputs without build arguments."""

    identity: str
    content: str


def current_variants(catalog: Catalog) -> dict[tuple[str, str], CurrentVariant]:
    """Return them by stack and variant; those that cannot be read are skipped, and so never called old."""
    current: dict[tuple[str, str], CurrentVariant] = {}
    for stack in catalog.stacks.values():
        for name in stack.spec.variants:
            declared = stack.spec.variants[name].build_args
            unset = {argument: "" for argument, spec in declared.items() if spec.default is None}
            with suppress(OrchError, OSError):
                inputs = image_inputs(stack, name, BuildOptions(build_args=unset))
                current[stack.name, name] = CurrentVariant(inputs.identity, inputs.content)
    return current


def why_unneeded(
    image: EngineImage, catalog: Catalog, current: Mapping[tuple[str, str], CurrentVariant], scope: Scope
) -> str | None:
    """Return why an image of orch can be removed; None where it must be kept."""
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
    # An unknown stack may be in another --stacks folder.
    is_removed = stack in catalog.stacks and variant not in catalog.stacks[stack].spec.variants
    return f"{stack} has no variant {variant} any more" if is_removed else None


def engine_leftovers(catalog: Catalog, scope: Scope) -> tuple[list[Leftover], list[str]]:
    """Return containers, then images; and a note where no engine answers."""
    try:
        engine = connect()
    except MachineError as error:
        return [], [f"{error.message}: images and containers were not searched"]
    listed = engine.client.api.containers(all=True)
    ended = list(_ended_containers(engine, listed, scope))
    removable = {container["Id"] for container, _ in ended}
    in_use = {container["ImageID"] for container in listed if container["Id"] not in removable}
    images = [image for image in _images(engine) if image.id not in in_use]
    return [leftover for _, leftover in ended] + list(_old_images(engine, images, catalog, scope)), []


def _ended_containers(
    engine: Engine, listed: Sequence[Mapping[str, Any]], scope: Scope
) -> Iterator[tuple[Any, Leftover]]:
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
    """Return whether a container ended long enough ago; False where it no longer exists."""
    try:
        state = engine.client.api.inspect_container(identifier)
    except Exception:
        return False
    ended = state["State"].get("FinishedAt") or ""
    moment = state["Created"] if ended.startswith("0001") or not ended else ended
    with suppress(Exception):
        now = engine.client.api.info()["SystemTime"]  # the engine may run on another machine, with another clock
        return (datetime.fromisoformat(now) - datetime.fromisoformat(moment)).total_seconds() > SETTLED_SECONDS
    return False


def _images(engine: Engine) -> Iterator[EngineImage]:
    for one in engine.client.api.images(filters={"label": f"{LABEL}.identity"}):
        tags = tuple(tag for tag in one.get("RepoTags") or () if not tag.startswith("<none>"))
        yield EngineImage(one["Id"], tags, one.get("Labels") or {}, int(one.get("Size") or 0), float(one["Created"]))


def _old_images(engine: Engine, images: Collection[EngineImage], catalog: Catalog, scope: Scope) -> Iterator[Leftover]:
    current = current_variants(catalog)
    for image in images:
        why = why_unneeded(image, catalog, current, scope)
        if why is not None:
            shown = image.names[0] if image.tags else f"{image.names[0]} ({image.id.removeprefix('sha256:')[:12]})"
            remove = partial(_remove, engine.client.api.remove_image, *(image.tags or (image.id,)))
            yield Leftover("image", shown, image.bytes, why, remove)


def _remove(action: Any, *names: str) -> str | None:
    """Remove without force: what the engine reports as in use is kept."""
    from docker.errors import APIError, NotFound

    for name in names:
        try:
            action(name)
        except NotFound:
            continue
        except (APIError, OSError) as error:
            return str(getattr(error, "explanation", None) or error)
    return None
