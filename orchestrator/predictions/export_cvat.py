"""Export as "CVAT for images 1.1": one XML file with a mask or a box per instance, and its score as an attribute.

Layout: https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from orchestrator.predictions.outlines import count_runs, crop_mask
from orchestrator.predictions.predictions import Predictions, Record
from orchestrator.predictions.records import find_names, note_empty_masks, require_xml
from orchestrator.predictions.schema import STATUS_PREDICTED
from orchestrator.system import replace_file

Element = ElementTree.Element


def export_cvat(predictions: Predictions, target: Path) -> list[str]:
    """Write the file `target`, image by image; return notes."""
    names = {category: require_xml(name) for category, name in find_names(predictions, "cvat").items()}
    empty = 0
    with replace_file(target) as stream:
        stream.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        stream.write(_encode(_make_meta(predictions, list(names.values()))))
        for number, record in enumerate(predictions):
            if record["status"] != STATUS_PREDICTED:
                continue
            height, width = record["image_size"]
            sides = {"width": width, "height": height}
            image = _make_element("image", id=number, name=require_xml(record["image_file"]), **sides)
            for row, category in enumerate(record["classes"].tolist()):
                shape = _make_shape(record, row, names[category])
                empty += shape is None
                if shape is not None:
                    ElementTree.SubElement(shape, "attribute", name="score").text = f"{record['scores'][row]:.9g}"
                    image.append(shape)
            stream.write(_encode(image))
        stream.write(b"</annotations>\n")
    return note_empty_masks(empty)


def _make_meta(predictions: Predictions, names: list[str]) -> Element:
    """Return the task with its labels, each of which has the attribute `score`."""
    meta = Element("meta")
    task = ElementTree.SubElement(meta, "task")
    ElementTree.SubElement(task, "name").text = require_xml(str(predictions.meta.get("model")))
    ElementTree.SubElement(task, "size").text = str(len(predictions))
    ElementTree.SubElement(task, "mode").text = "annotation"
    labels = ElementTree.SubElement(task, "labels")
    for name in names:
        label = ElementTree.SubElement(labels, "label")
        for key, value in (("name", name), ("type", "any")):
            ElementTree.SubElement(label, key).text = value
        attribute = ElementTree.SubElement(ElementTree.SubElement(label, "attributes"), "attribute")
        described = {"name": "score", "mutable": "False", "input_type": "text", "default_value": "", "values": ""}
        for key, value in described.items():
            ElementTree.SubElement(attribute, key).text = value
    return meta


def _make_shape(record: Record, row: int, label: str) -> Element | None:
    """Return an instance's element, None for an empty mask."""
    common = {"label": label, "source": "auto", "occluded": 0, "z_order": 0}
    if "masks" not in record:
        box = [f"{side:.9g}" for side in record["boxes"][row].tolist()]
        return _make_element("box", **common, **dict(zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)))
    cropped, left, upper = crop_mask(record["masks"][row])
    if not cropped.size:
        return None
    height, width = cropped.shape
    runs = ", ".join(map(str, count_runs(cropped)))
    return _make_element("mask", **common, rle=runs, left=left, top=upper, width=width, height=height)


def _make_element(name: str, /, **attributes: Any) -> Element:
    return Element(name, {key: str(value) for key, value in attributes.items()})


def _encode(element: Element) -> bytes:
    ElementTree.indent(element)
    return ElementTree.tostring(element, "unicode").encode() + b"\n"
