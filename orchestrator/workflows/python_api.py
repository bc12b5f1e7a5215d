"""orch from Python: run a model on images as `orch run` does, or connect to a worker that keeps it loaded."""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from orchestrator.catalog import ModelEntry, ensure_weights, load_catalog
from orchestrator.errors import MachineError, RuntimeUnsuitable, UsageError
from orchestrator.inputs import EXTENSIONS
from orchestrator.paths import RunPaths
from orchestrator.plan import RunOptions
from orchestrator.predictions import Predictions
from orchestrator.runtimes import (
    BuildOptions,
    UpOptions,
    choose_runtime,
    process_worker,
    select_variant,
    start_workers,
    stop_workers,
)
from orchestrator.system import PlainDisplay, SilentDisplay, count_of
from orchestrator.workflows.run import run_model

_SESSION_HELP = "help(orchestrator.Session.predict)"

_WATCH = 'read -r word; [ "$word" = stop ] || { "$@"; rm -rf "$0"; }'
"""A shell that runs a command and removes a folder, unless "stop" arrives: its input ends with this program."""

PathLike = str | os.PathLike[str]
Image = PathLike | NDArray[np.uint8]
"""A file, or (H,W,3) RGB, (H,W) grey or (H,W,4) RGBA pixels."""


class Run:
    """A complete run: its folder, its summary and its predictions."""

    def __init__(self, path: Path, summary: dict[str, Any]) -> None:
        self.path = path
        self.summary = summary

    @cached_property
    def predictions(self) -> Predictions:
        """The predictions, read when they are first used."""
        return Predictions.load(RunPaths(self.path).predictions)

    @property
    def failed(self) -> dict[str, str]:
        """The reason of each image that failed, by its name."""
        return {one["image_file"]: one["error"] for one in self.summary["failures"]}

    def __repr__(self) -> str:
        done, failed = count_of(self.summary["predicted"], "image"), self.summary["failed"]
        return f"<Run of {self.summary['model']}: {done} predicted, {failed} failed, {self.path}>"

    def _repr_html_(self) -> str:
        """Return the summary as a table, for notebooks."""
        shown = ("model", "variant", "device", "predicted", "failed", "instances")
        rows = {**{name: self.summary[name] for name in shown}, "run": self.path}
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows.items())
        return f"<table>{cells}</table>"


def run_images(
    model: str,
    images: PathLike | Iterable[PathLike],
    *,
    out: PathLike | None = None,
    stacks: Sequence[PathLike] = (),
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Predict images with a model, as `orch run` does: the same call resumes an interrupted run.

    `images`: a folder, file, glob, list, archive or COCO file, or several of them. `options`: those of `orch run` by
    their names with underscores, such as device="cpu" or score_threshold=0.5; settings of the model as
    settings=["nms_iou=0.5"]. Progress is printed as lines on stderr unless `quiet`. Raises OrchError as the command
    reports it: UsageError, BuildError, MachineError, RunError, Interrupted.
    """
    entry = _find_model(model, stacks)
    sources = _list_sources(images)
    made = _make_options({"images": sources, "out": out, **options})
    outcome = run_model(entry, made, SilentDisplay() if quiet else PlainDisplay())
    return Run(outcome.paths.root, dict(outcome.summary))


def connect(
    model: str,
    *,
    device: str | None = None,
    variant: str | None = None,
    runtime: str = "auto",
    settings: Sequence[str] = (),
    stacks: Sequence[PathLike] = (),
    quiet: bool = False,
) -> Session:
    """Start a worker that keeps a model loaded, and return the session that predicts with it. Close it, or use `with`.

    `runtime`: "docker" or "venv"; "auto": Docker if an engine answers, else a virtual environment, where the model runs
    as you. Raises UsageError, BuildError, MachineError.
    """
    return Session(_find_model(model, stacks), device, variant, runtime, tuple(settings), quiet=quiet)


class Session:
    """A warm worker of one model that belongs to this object."""

    def __init__(
        self,
        entry: ModelEntry,
        device: str | None,
        variant: str | None,
        runtime: str,
        settings: tuple[str, ...],
        *,
        quiet: bool = False,
    ) -> None:
        """Build what is missing, start the worker and wait until it serves. Raises OrchError."""
        display = SilentDisplay() if quiet else PlainDisplay()
        entry.settings(settings)
        self._entry, self._settings, self._count = entry, settings, 0
        self._is_closed = False
        self._choice = select_variant(entry.stack, variant, device)
        with ExitStack() as opening:
            self._folder = Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="orch-session-")))
            chosen, _ = choose_runtime(runtime)
            if chosen.name == "docker":
                self._spool = self._folder / "spool"
                options = UpOptions(self._spool, variant=self._choice.variant, device=device)
                opening.enter_context(_down_with_program(entry.stack.name, self._spool, self._folder))
                start_workers(entry.stack, [entry], options, display)
                opening.callback(stop_workers, [entry.stack.name], self._spool, lambda line: None)
            elif chosen.name == "venv":
                ensure_weights(entry, offline=False, progress=display.transfer)
                prepared = chosen.prepare(entry.stack, self._choice.variant, BuildOptions(), display.detail)
                worker = process_worker(prepared, self._folder, self._choice.devices[0])
                self._spool = opening.enter_context(worker)
            else:
                raise UsageError(f"the runtime {chosen.name} has no warm workers", hint='runtime="docker" or "venv"')
            self._opened = opening.pop_all()

    def predict(self, images: Image | Sequence[Image]) -> list[dict[str, Any]]:
        """Predict one image or several; return one record for each, in order, as `Predictions` has them.

        A record of an image that failed has status 1 and the reason in "error". A file keeps its path as "image_file",
        an array has the number of its position. Raises OrchError.
        """
        is_several = isinstance(images, Iterable) and not isinstance(images, str | bytes | np.ndarray)
        several: list[Image] = list(images) if is_several else [images]  # type: ignore[list-item, arg-type]
        if self._is_closed:
            raise UsageError("this session is closed", hint="orchestrator.connect opens another one")
        if not several:
            return []
        self._count += 1
        folder = self._folder / f"call-{self._count}"
        (folder / "images").mkdir(parents=True)
        try:
            names = [_place(image, folder / "images", number) for number, image in enumerate(several)]
            options = _make_options(
                {
                    "images": [str(folder / "images")],
                    "out": folder / "run",
                    "warm": True,
                    "spool": self._spool,
                    "variant": self._choice.variant,
                    "device": self._choice.device,
                    "settings": list(self._settings),
                }
            )
            try:
                outcome = run_model(self._entry, options, SilentDisplay())
            except RuntimeUnsuitable as error:  # says how to start a worker that all may use
                why, hint = error.why or error.message, "close the session and connect again"
                raise MachineError("the worker of this session has ended", why=why, hint=hint) from error
            found = {record["image_file"]: record for record in Predictions.load(outcome.paths.predictions)}
            return [
                {**found[name], "image_file": _label(*one)} for name, one in zip(names, enumerate(several), strict=True)
            ]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Stop the worker and remove its files."""
        self._is_closed = True
        self._opened.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session of {self._entry.name} on {self._choice.device}>"


@contextmanager
def _down_with_program(stack: str, spool: Path, folder: Path) -> Iterator[None]:
    """Have the workers of a spool stopped and the session's folder removed if this program dies within the block."""
    down = [sys.executable, "-m", "orchestrator", "down", stack, "--spool", str(spool)]
    watch = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, str(folder), *down],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watch.communicate(b"stop\n")


def _label(number: int, image: Image) -> str:
    return str(number) if isinstance(image, np.ndarray) else os.fspath(image)


def _place(image: Image, folder: Path, number: int) -> str:
    """Put an image into a folder; return its name there. Raises UsageError."""
    if not isinstance(image, np.ndarray):
        if not isinstance(image, str | os.PathLike):
            raise UsageError(f"{image!r} is no image", why="an image is a path or an array", hint=_SESSION_HELP)
        suffix = Path(image).suffix
        # With another ending it would be a list or an archive, or be skipped: here each file stands for one image.
        name = f"{number:06d}{suffix if suffix.lower() in EXTENSIONS else '.png'}"
        try:
            shutil.copyfile(image, folder / name)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"cannot read the image {image}", why=why, hint="give files that exist") from error
        return name
    from PIL import Image as Pictures

    kinds = {2: "L", (3, 3): "RGB", (3, 4): "RGBA"}
    kind = kinds.get(image.ndim if image.ndim == 2 else (image.ndim, image.shape[-1]))
    if image.dtype != np.uint8 or kind is None or 0 in image.shape:
        why = f"it is {image.dtype}, of shape {image.shape}"
        raise UsageError(
            "an array must be uint8 and (H,W,3) RGB, (H,W) grey or (H,W,4) RGBA", why=why, hint=_SESSION_HELP
        )
    name = f"{number:06d}.png"
    Pictures.fromarray(np.ascontiguousarray(image), kind).save(folder / name, compress_level=1)
    return name


def _list_sources(images: object) -> list[str]:
    """Return what names images. Raises UsageError for what is no path."""
    several: list[Any] = [images] if isinstance(images, str | bytes) or not isinstance(images, Iterable) else [*images]
    for one in several:
        if not isinstance(one, str | os.PathLike):
            raise UsageError(f"images: {one!r} is no path", hint="help(orchestrator.run)")
    return [os.fspath(one) for one in several]


def _find_model(model: str, stacks: Sequence[PathLike]) -> ModelEntry:
    if not isinstance(model, str):
        raise UsageError(f"model={model!r} is not the name of a model", hint="orch models")
    return load_catalog([Path(folder) for folder in stacks]).model(model)


def _make_options(values: dict[str, Any]) -> RunOptions:
    """Return the options of a run. Raises UsageError for one that is unknown or wrong."""
    try:
        return RunOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{name}={values.get(name)!r}: {message}", hint="help(orchestrator.run)") from None
