"""Export as COCO results, and as FashionFail's pickled layout."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError
from orchestrator.predictions.annotations import match_images, read_annotations
from orchestrator.predictions.coco_results import write_results
from orchestrator.predictions.npz import NpzWriter
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_PREDICTED, to_native_edges
from orchestrator.system import replace_file

UPSTREAM_LEVEL = 6  # zlib's default, as numpy.savez_compressed uses


def export_coco(predictions: Predictions, target: Path, annotations: Path | None = None) -> None:
    """Write COCO results JSON: a list with one object per instance, in the order of the file.

    With `annotations`, image ids are those of that COCO file; else the file's own image_id. PredictionsError
    when an image is not in the annotations.
    """
    ids = None
    if annotations is not None:
        ids = match_images(predictions, read_annotations(annotations), annotations)
    ids = predictions.image_id if ids is None else ids
    with replace_file(target) as stream:
        try:
            write_results(stream, predictions.read_rows(), ids.tolist(), predictions.image_size.tolist())
        except ValueError as error:
            what = predictions.path or "FILE"
            hint = f"orch validate {what}"
            raise PredictionsError("a box or score is not finite", why=str(error), hint=hint) from error


def export_fashionfail(predictions: Predictions, target: Path) -> None:
    """Write FashionFail's layout: an npz with one array `data`, a pickled list of one dict per image.

    Boxes and classes are the model's own (order of coordinates, edges, numbering), as that project's evaluation
    expects of each model. `image_file` is the base name where that is unique, else the relative path. Failed
    images are skipped, as upstream's files hold only images that were predicted. All records are in memory
    at once, as they are for every reader of the file. numpy 1 and 2 can read it. The predictions must have masks.
    """
    converted = list(_convert_records(predictions))
    records = np.empty(len(converted), dtype=object)
    records[:] = converted
    with NpzWriter(target, compress=True, level=UPSTREAM_LEVEL) as writer, writer.member("data.npy") as stream:
        npy.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": records.shape})
        _PortablePickler(stream, protocol=4).dump(records)


class _PortablePickler(pickle.Pickler):
    """Pickles arrays by numpy's public names: numpy 2.3 and later write numpy._core, which numpy 1 lacks."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray:
            return np.ndarray, ((0,), "b"), obj.__reduce__()[2]
        return NotImplemented


def _convert_records(predictions: Predictions) -> Iterator[dict[str, Any]]:
    native = predictions.meta.get("native")
    if not isinstance(native, dict) or native.get("box_order") not in ("xyxy", "yxyx"):
        raise PredictionsError("the predictions lack the model's own box order", why=f"native is {native}")
    order = [0, 1, 2, 3] if native["box_order"] == "xyxy" else [1, 0, 3, 2]
    classes = _convert_classes(predictions, native)
    bases = Counter(PurePosixPath(file).name for file in predictions.files)
    for i, record in enumerate(predictions):
        if record["status"] != STATUS_PREDICTED:
            continue
        base = PurePosixPath(record["image_file"]).name
        converted = {
            "image_file": base if bases[base] == 1 else record["image_file"],
            "boxes": np.ascontiguousarray(to_native_edges(record["boxes"], native)[:, order]),
            "classes": classes[predictions.rows(i)],
            "scores": record["scores"],
            "masks": record.get("masks", []),
        }
        if "attributes" in record:
            converted["attributes"] = record["attributes"]
        yield converted


def _convert_classes(predictions: Predictions, native: dict[str, Any]) -> NDArray[Any]:
    """Return (N,) the model's own class numbers, of the type that its project uses."""
    kind = np.int32 if native.get("class_type") == "int32" else np.int64
    mapped, base = native.get("class_map"), native.get("class_base")
    if not isinstance(mapped, list) or not isinstance(base, int):
        raise PredictionsError("the predictions lack the model's own classes", why=f"native is {native}")
    inverse = {category: index + base for index, category in reversed(list(enumerate(mapped)))}
    present, indices = np.unique(predictions.classes, return_inverse=True)
    unknown = [category for category in present.tolist() if category not in inverse]
    if unknown:
        raise PredictionsError(f"the model has no class for category {unknown[0]}", why=f"class_map is {mapped}")
    return np.array([inverse[category] for category in present.tolist()], kind)[indices]
