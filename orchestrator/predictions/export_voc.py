"""Export as Pascal VOC: Annotations/<image>.xml with the boxes of an image, and each one's score.

Layout: http://host.robots.ox.ac.uk/pascal/VOC. Its boxes count pixels from 1 and include the last ones.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from orchestrator.predictions.output_names import assign_paths, fill_new_folder, stem, without_extension
from orchestrator.predictions.predictions import Predictions, Record
from orchestrator.predictions.records import find_names, require_xml
from orchestrator.predictions.schema import STATUS_PREDICTED


def export_voc(predictions: Predictions, target: Path) -> None:
    """Write to the folder `target` boxes in whole pixels, inside the image, at least one pixel wide and high.

    ImageSets/Main/default.txt lists the predicted images, labelmap.txt the categories: some readers want them.
    """
    names = {category: require_xml(name) for category, name in find_names(predictions, "voc").items()}
    listed: list[str] = []
    database = f"predictions of {predictions.meta.get('model')}"
    with fill_new_folder(target) as folder:
        (folder / "Annotations").mkdir()
        paths = assign_paths(folder / "Annotations", predictions.files, ".xml", [stem, without_extension, str])
        for record, path in zip(predictions, paths, strict=True):
            if record["status"] == STATUS_PREDICTED:
                root = _describe_image(record, names, database)
                ElementTree.indent(root)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(ElementTree.tostring(root, "unicode").encode() + b"\n")
                listed.append(str(path.relative_to(folder / "Annotations").with_suffix("")))
        (folder / "labelmap.txt").write_text("".join(f"{name}:::\n" for name in names.values()), "utf-8")
        (folder / "ImageSets" / "Main").mkdir(parents=True)
        (folder / "ImageSets" / "Main" / "default.txt").write_text("".join(f"{name}\n" for name in listed), "utf-8")


def _describe_image(record: Record, names: dict[int, str], database: str) -> ElementTree.Element:
    file = PurePosixPath(require_xml(record["image_file"]))
    height, width = record["image_size"]
    root = ElementTree.Element("annotation")
    _add(root, folder=str(file.parent), filename=file.name, path=str(file))
    _add(ElementTree.SubElement(root, "source"), database=require_xml(database))
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=0)
    first = np.clip(np.rint(record["boxes"][:, :2]), 0, (width - 1, height - 1)).astype(int) + 1
    last = np.clip(np.rint(record["boxes"][:, 2:]), first, (width, height)).astype(int)
    rows = zip(record["classes"].tolist(), record["scores"], first.tolist(), last.tolist(), strict=True)
    for category, score, (xmin, ymin), (xmax, ymax) in rows:
        instance = ElementTree.SubElement(root, "object")
        _add(instance, name=names[category], pose="Unspecified", truncated=0, difficult=0, score=f"{score:.9g}")
        _add(ElementTree.SubElement(instance, "bndbox"), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
    return root


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = str(text)
