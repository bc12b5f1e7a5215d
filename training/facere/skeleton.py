"""Export the graphs of Facere and Facere+ without their weights: images/facere/structures/*.onnx.gz.

Usage: python skeleton.py OUT_FOLDER     (torch 2.2.2, torchvision 0.17.2, numpy 1.26.4, onnx; see README.md)
"""

from __future__ import annotations

import argparse
import gzip
import io
from pathlib import Path

import onnx
import torch
import torchvision
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

CLASSES = {"facere": 47, "facere_plus": 23}
"""Classes of each model's heads, background included."""
WEIGHTLESS = "weights left out"


def make_network(classes: int) -> torch.nn.Module:
    """Mask R-CNN R50-FPN v2 with heads for `classes`, as the FashionFail paper trains it; random weights."""
    torch.manual_seed(0)
    network = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    heads = network.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, classes)
    heads.mask_predictor = MaskRCNNPredictor(heads.mask_predictor.conv5_mask.in_channels, 256, classes)
    return network.eval()


def export(network: torch.nn.Module) -> onnx.ModelProto:
    """The network as ONNX, for images of any size."""
    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        torch.rand(1, 3, 480, 640),
        buffer,
        opset_version=17,
        input_names=["input"],
        output_names=["boxes", "labels", "scores", "masks"],
        dynamic_axes={"input": {0: "batch_size", 2: "height", 3: "width"}},
    )
    return onnx.load_from_string(buffer.getvalue())


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with names and shapes of its weights only; marked, so that nobody takes it for a whole one."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.doc_string = WEIGHTLESS
    clear_names(model.graph)
    return model


def clear_names(graph: onnx.GraphProto) -> None:
    """Drop what only people read; it would be most of the file."""
    del graph.value_info[:]
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                clear_names(attribute.g)


def main() -> None:
    """Write both skeletons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, classes in CLASSES.items():
        model = strip(export(make_network(classes)))
        # No time stamp and no file name inside: the same structure gives the same bytes.
        packed = gzip.compress(model.SerializeToString(deterministic=True), mtime=0)
        (folder / f"{name}.onnx.gz").write_bytes(packed)
        print(f"{name}.onnx.gz: {len(model.graph.node)} nodes, {len(packed)} bytes")


if __name__ == "__main__":
    main()
