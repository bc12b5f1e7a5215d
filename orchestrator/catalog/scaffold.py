"""`orch new`: write the skeleton of a stack that runs, or the model.yaml of a model on a stack that exists."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from orchestrator.catalog.bundled import RUNNER, STACKS
from orchestrator.catalog.loader import Catalog, ModelEntry, read_model
from orchestrator.catalog.model_file import MODEL_FILE
from orchestrator.catalog.spec import MODEL_NAME_PATTERN
from orchestrator.catalog.weights_content import content_problem
from orchestrator.errors import SpecError, UsageError
from orchestrator.system import replace_path

TEMPLATE = Path(__file__).parent.parent / "templates" / "stack"
LONGEST_NAME = 40  # the model is called NAME-example


def create_stack(name: str, parent: Path) -> Path:
    """Write the skeleton of stack `name` into a new folder of `parent`. Raises UsageError."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST_NAME:
        why = f"at most {LONGEST_NAME} lower-case letters and digits, with single - between them"
        raise UsageError(f"{name!r} is not a valid stack name", why=why)
    if (STACKS / name).exists():
        raise UsageError(f"orch already has a built-in stack {name}", hint="choose another name")
    folder = parent / name
    if folder.exists():
        raise UsageError(f"{folder} already exists", hint="choose another name, or another --into")
    try:
        with replace_path(folder) as aside:
            _write_skeleton(name, aside)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{parent} is not a folder", why=error.strerror) from None
    return folder


def _write_skeleton(name: str, folder: Path) -> None:
    folder.mkdir()
    for template in sorted(TEMPLATE.iterdir()):
        if template.is_file():
            text = template.read_text(encoding="utf-8").replace("@NAME@", name)
            (folder / template.name.removesuffix(".template").replace("NAME", name)).write_text(text, encoding="utf-8")
    shutil.copyfile(RUNNER / "base.lock", folder / "cpu.lock")
    shutil.copyfile(RUNNER / "requirements.in", folder / "requirements.in")


def create_model(
    known: Catalog,
    name: str,
    like: str,
    weights: Sequence[str],
    categories: str | None,
    config: Path | None,
    parent: Path,
) -> Path:
    """Write the model.yaml of `name` into a new folder of `parent`, and return its path.

    `weights`: FILE, URL, or KEY=FILE for each key of a model with several. `categories`: names with commas, or a file
    (see `read_categories`). Raises UsageError.
    """
    if not re.fullmatch(MODEL_NAME_PATTERN, name):
        raise UsageError(
            f"{name!r} is not a valid model name", why="lower-case letters and digits, with - between them"
        )
    if name in known.models or name in known.aliases:
        raise UsageError(f"there is a model {name} already: {known.model(name).file}", hint="choose another name")
    base, folder = known.model(like), (parent / name).absolute()
    if folder.exists():
        raise UsageError(f"{parent / name} already exists", hint="choose another name, or another --into")
    document: dict[str, Any] = {"model": name, "like": base.name}
    if weights:
        document["weights"] = _weights_document(base, weights, folder)
    if config is not None:
        document["config"] = _path_from(folder, str(config))
    if categories is not None:
        document["categories"] = read_categories(categories)
    try:
        with replace_path(folder) as aside:
            aside.mkdir()
            (aside / MODEL_FILE).write_text(_model_text(base, document), encoding="utf-8")
            read_model(aside / MODEL_FILE, base.stack)
    except SpecError as error:
        raise UsageError(f"cannot write {parent / name / MODEL_FILE}", why=error.message.partition(": ")[2]) from None
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{parent} is not a folder", why=error.strerror) from None
    return folder / MODEL_FILE


def read_categories(text: str) -> list[str] | list[dict[str, Any]]:
    """Return the names in "shirt,shoe,hat", or the categories of a file.

    The file is a COCO annotation file, or has a line `name` or `id:name` for each category; 0:background is skipped.
    Raises UsageError.
    """
    path = Path(text)
    if not path.is_file():
        return [name.strip() for name in text.split(",") if name.strip()]
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            listed = [{"id": int(one["id"]), "name": str(one["name"])} for one in json.loads(content)["categories"]]
            return sorted(listed, key=itemgetter("id"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} has no list of categories", why=f"{type(error).__name__}: {error}") from None
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    pairs = [line.partition(":") for line in lines]
    if not all(number.strip().isdigit() and name for number, _, name in pairs):
        return lines
    numbered = [{"id": int(number), "name": name.strip()} for number, _, name in pairs]
    return [one for one in numbered if one != {"id": 0, "name": "background"}]


def _weights_document(base: ModelEntry, weights: Sequence[str], folder: Path) -> str | dict[str, str]:
    """Return `weights` of the model.yaml. Raises UsageError for a file that is missing or cannot be weights."""
    document: dict[str, str] = {}
    for text in weights:
        key, equals, origin = text.partition("=")
        if not equals or key not in base.spec.weights:
            key, origin = next(iter(base.spec.weights), ""), text
            if len(base.spec.weights) != 1:
                why = f"{base.name} has the weights {', '.join(base.spec.weights) or 'none'}"
                raise UsageError(f"--weights {text}: write it as KEY=FILE", why=why)
        if "://" not in origin:
            path = Path(origin).expanduser()
            if not path.exists():
                raise UsageError(f"--weights {text}: {origin} does not exist", hint="name the file of your own weights")
            problem = content_problem(path, base.spec.weights[key])
            if problem is not None:
                raise UsageError(f"--weights {text}: these are no weights like those of {base.name}", why=problem)
            origin = _path_from(folder, origin)
        document[key] = origin
    return next(iter(document.values())) if len(base.spec.weights) == 1 else document


def _path_from(folder: Path, path: str) -> str:
    """Return a path as it is written into a file in `folder`: relative where both lie below the working directory."""
    absolute, here = Path(os.path.abspath(Path(path).expanduser())), Path.cwd()
    is_near = absolute.is_relative_to(here) and folder.is_relative_to(here)
    return os.path.relpath(absolute, folder) if is_near else str(absolute)


def _model_text(base: ModelEntry, document: Mapping[str, Any]) -> str:
    """Return the text of a model.yaml, with the base model's settings as comments."""
    title = f"# A model of your own on the stack {base.stack.name}. docs/adding-a-stack.md explains each field."
    lines = [title]
    for field, value in document.items():
        flow = None if isinstance(value, list | dict) else False  # None: only the innermost lists are on one line
        lines += [yaml.safe_dump({field: value}, allow_unicode=True, width=110, default_flow_style=flow).rstrip()]
    if "categories" not in document:
        lines += ["# categories: [first, second]  # in the order of the model's classes; without it, the base model's"]
    lines += ["# defaults: {score_threshold: 0.5}"]
    if base.spec.settings:
        shown = ", ".join(f"{name}: {_as_yaml(setting.default)}" for name, setting in base.spec.settings.items())
        lines += [f"# settings: {{{shown}}}"]
    return "\n".join(lines) + "\n"


def _as_yaml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
