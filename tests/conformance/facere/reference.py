"""The records FashionFail's own prediction script writes for a graph, made step by step as it does.

Runs in the stack's environment: python reference.py MODEL.onnx FOLDER OUT.npz. Decoding is Pillow's, which on the
files tested gives torchvision's pixels; division by 255 is exact in both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-not-found]
from PIL import Image
from pycocotools import mask as coco_mask


def main(model: str, folder: str, out: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    records = []
    for path in sorted(Path(folder).iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / np.float32(255)
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]
        boxes, labels, scores, masks = session.run(None, {session.get_inputs()[0].name: image})
        full = masks.squeeze(1) > 0.5
        encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in full]
        record = {"image_file": path.name, "boxes": boxes[:, [1, 0, 3, 2]], "classes": labels, "scores": scores}
        records.append({**record, "masks": encoded})
    np.savez_compressed(out, data=np.array([None, *records], object)[1:])


if __name__ == "__main__":
    main(*sys.argv[1:])
