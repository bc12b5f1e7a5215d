"""The images of a snapshot: choose those that pass the filters, describe and draw one at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation import OpenedRun
from orchestrator.predictions import STATUS_FAILED
from orchestrator.reports.draw import choose_colour
from orchestrator.reports.html.gallery import (
    Panels,
    find_in_truth,
    find_size,
    fit_without_picture,
    measure_errors,
    measure_image_disagreement,
)
from orchestrator.reports.html.thumbnails import compress, shrink_image
from orchestrator.reports.view.snapshot import Snapshot

State = Literal["any", "with", "without", "failed"]
STATES: tuple[State, ...] = ("any", "with", "without", "failed")
CACHE_BYTES = 64 << 20
_DECODERS = 2  # images decoded at a time: each may take hundreds of megabytes

Picture = tuple[bytes, str]


@dataclass(frozen=True)
class Filter:
    """Which images are shown, and in which order.

    `category` None: all. `score`: least score of an instance that counts. `state`: any images, those with or without
    instances, or those that failed in a run. `apart`: least disagreement. `words`: part of the file name.
    """

    category: int | None = None
    score: float = 0.0
    state: State = "any"
    apart: float = 0.0
    most_apart_first: bool = False
    words: str = ""


class Disagreement:
    """The disagreement on each image, from 0 to 1, measured by a thread of its own; NaN where not measured yet."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._material = snapshot.material
        self._stopped = threading.Event()
        self.files = self._material.runs[0].predictions.files
        self.is_defined = len(self._material.runs) > 1 or self._material.truth is not None
        self.values: NDArray[np.float64] = np.full(len(self.files), np.nan)
        self.known = 0
        self._thread = threading.Thread(target=self._measure, name="disagreement", daemon=True)

    def start(self) -> None:
        """Begin to measure; a single run's errors are counted at once."""
        if len(self._material.runs) > 1:
            self._thread.start()
        else:
            self.values[:] = measure_errors(self._material)
            self.known = len(self.files)

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stopped.set()
        self.wait()

    def wait(self) -> None:
        """Wait until all is measured, or the thread was stopped."""
        if self._thread.is_alive():
            self._thread.join()

    def _measure(self) -> None:
        for image, file in enumerate(self.files):
            if self._stopped.is_set():
                return
            self.values[image] = measure_image_disagreement(self._material, file)
            self.known = image + 1


class ImageIndex:
    """Finds, describes and draws the images of a snapshot, which are those of its first run."""

    def __init__(self, snapshot: Snapshot, opening: int) -> None:
        """`opening` stands in the addresses of pictures: a number may be another image after the next opening."""
        self.opening = opening
        self._material = snapshot.material
        self._runs = snapshot.material.runs
        self._files = self._runs[0].predictions.files
        self._lower_files = [file.lower() for file in self._files]
        self._orders = [_order_like(run, self._files) for run in self._runs]
        truth, first = snapshot.material.truth, self._runs[0].predictions
        self._in_truth = np.full(len(first), -1) if truth is None else find_in_truth(truth, first)
        self._panels = Panels(snapshot.material)
        self._pictures = PictureCache(CACHE_BYTES)
        self._decoding = threading.BoundedSemaphore(_DECODERS)
        self.disagreement = Disagreement(snapshot)

    def __len__(self) -> int:
        return len(self._files)

    def list_categories(self) -> dict[int, dict[str, str]]:
        """Return the name and colour of each category: of the runs, of the truth, and of any instance."""
        names: dict[int, str] = {}
        for run in self._runs:
            names |= {number: str(number) for number in np.unique(run.predictions.classes).tolist()}
        for run in self._runs:
            names |= run.predictions.category_names
        names |= self._material.truth.categories if self._material.truth is not None else {}
        return {number: {"name": names[number], "colour": f"rgb{choose_colour(number)}"} for number in sorted(names)}

    def find(self, wanted: Filter) -> NDArray[np.int64]:
        """Return the images that pass a filter, in order."""
        keep = self._has_state(wanted)
        values = self.disagreement.values
        if wanted.apart > 0:
            keep &= values >= wanted.apart
        if wanted.words:
            keep &= np.fromiter((wanted.words.lower() in file for file in self._lower_files), bool, len(self))
        images: NDArray[np.int64] = np.flatnonzero(keep)
        if wanted.most_apart_first:
            images = images[np.argsort(-np.nan_to_num(values[images], nan=-1.0), kind="stable")]
        return images

    def _has_state(self, wanted: Filter) -> NDArray[np.bool_]:
        if wanted.state == "any" and wanted.category is None:
            return np.ones(len(self), bool)
        has_failed, has_instances = np.zeros(len(self), bool), np.zeros(len(self), bool)
        for run, order in zip(self._runs, self._orders, strict=True):
            has_failed |= (run.predictions.status == STATUS_FAILED)[order]
            has_instances |= (_count_instances(run, wanted) > 0)[order]
        if wanted.state == "failed":
            return has_failed
        if wanted.state == "without":
            return ~has_instances & ~has_failed
        return has_instances | self._is_annotated(wanted.category) if wanted.state == "any" else has_instances

    def _is_annotated(self, category: int | None) -> NDArray[np.bool_]:
        truth = self._material.truth
        if truth is None or not len(truth):
            return np.zeros(len(self), bool)
        has_category = np.zeros(len(truth), bool)
        has_category[truth.image[truth.category == category]] = True
        return (self._in_truth >= 0) & has_category[self._in_truth]

    def describe(self, image: int, side: int) -> dict[str, Any]:
        """Return what the page's script draws an image from, at most `side` pixels wide and high."""
        file, apart = self._files[image], float(self.disagreement.values[image])
        size = fit_without_picture(self._runs, file, side)
        is_pictured = any(self._material.finders) and any(find_size(self._runs, file))
        return {
            "n": image,
            "file": file,
            "size": list(size),
            "url": f"picture/{self.opening}/{image}/{side}" if is_pictured else "",
            "note": "" if any(self._material.finders) else "the image files are not known: give --image-root FOLDER",
            "apart": None if np.isnan(apart) else round(apart, 3),
            "panels": self._panels.make(file, size),
        }

    def make_picture(self, image: int, side: int) -> Picture:
        """Return an image, scaled to `side`, and its media type; OSError or ValueError when it cannot be read."""
        kept = self._pictures.get((image, side))
        if kept is None:
            with self._decoding:
                kept = self._decode(self._files[image], side)
            self._pictures.add((image, side), kept)
        return kept

    def _decode(self, file: str, side: int) -> Picture:
        problem: Exception = ValueError("no run knows its file")
        for run, finder in zip(self._runs, self._material.finders, strict=True):
            if finder is None:
                continue
            try:
                path = finder(file)
                if not path.is_file():
                    raise ValueError(f"{path} is missing, or no file")
                return compress(shrink_image(path, run.predictions.meta.get("exif") != "ignore", side))
            except (OSError, ValueError, KeyError) as error:
                problem = error
        raise ValueError(f"the image cannot be shown: {problem}")


class PictureCache:
    """The pictures that were used last, up to a number of bytes; safe between threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock, self.bytes = limit, threading.Lock(), 0
        self._pictures: OrderedDict[tuple[int, int], Picture] = OrderedDict()

    def get(self, key: tuple[int, int]) -> Picture | None:
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def add(self, key: tuple[int, int], picture: Picture) -> None:
        with self._lock:
            if key in self._pictures:
                return
            self._pictures[key] = picture
            self.bytes += len(picture[0])
            while self.bytes > self._limit:
                self.bytes -= len(self._pictures.popitem(last=False)[1][0])


def _order_like(run: OpenedRun, files: list[str]) -> NDArray[np.int64] | slice:
    """Return the index in a run of each of `files`."""
    if run.predictions.files == files:
        return slice(None)
    return np.array([run.predictions.index(file) for file in files], np.int64)


def _count_instances(run: OpenedRun, wanted: Filter) -> NDArray[np.int64]:
    """Return for each of a run's images its instances of the category and score that are wanted."""
    predictions = run.predictions
    counts = predictions.scores >= wanted.score
    if wanted.category is not None:
        counts &= predictions.classes == wanted.category
    until: NDArray[np.int64] = np.concatenate(([0], np.cumsum(counts)))
    return until[predictions.offsets[1:]] - until[predictions.offsets[:-1]]
