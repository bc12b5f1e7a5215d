"""What the shell offers for a word that is being typed: names of models, stacks, variants, settings, runtimes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from orchestrator.errors import OrchError

if TYPE_CHECKING:
    from orchestrator.catalog import Catalog, ModelEntry

RUNTIME_NAMES = ("auto", "docker", "venv", "apptainer")
Completion = Callable[[typer.Context, str], list[str]]


def _offer(names: Callable[[Catalog, list[ModelEntry]], Iterable[str]]) -> Completion:
    """Return a completion from the catalog and the models typed so far, all where there are none; silent on errors."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from orchestrator.catalog import load_catalog

        with suppress(OrchError):
            known = load_catalog(ctx.params.get("stacks") or [])
            # The first word of `orch run`; it is in `args` where the parser stopped at an option without a value.
            given = ctx.params.get("model") or (ctx.params.get("more_images") or ctx.args)[:1]
            typed = [
                known.models[name] for name in ([given] if isinstance(given, str) else given) if name in known.models
            ]
            found = dict.fromkeys(names(known, typed or list(known.models.values())))
            return [name for name in found if name.startswith(incomplete)]
        return []

    return complete


complete_model = _offer(lambda known, _: [*known.models, *known.aliases])
complete_stack = _offer(lambda known, _: known.stacks)
complete_stack_or_model = _offer(lambda known, _: [*known.stacks, *known.models])
complete_variant = _offer(lambda _, models: [name for model in models for name in model.stack.spec.variants])
complete_setting = _offer(lambda _, models: [f"{name}=" for model in models for name in model.spec.settings])


def complete_runtime(incomplete: str) -> list[str]:
    """Return the runtimes that begin so."""
    return [name for name in RUNTIME_NAMES if name.startswith(incomplete)]


def complete_format(incomplete: str) -> list[str]:
    """Return the formats of `orch export` that begin so."""
    from orchestrator.predictions import FORMATS_WRITTEN

    return [name for name in FORMATS_WRITTEN if name.startswith(incomplete)]


def complete_model_or_path(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return models for the first word of `orch run` where none is given yet; else none: the shell offers files."""
    has_model = any(ctx.params.get(name) for name in ("model", "all_models", "file", "more_images"))
    return [] if has_model else complete_model(ctx, incomplete)
