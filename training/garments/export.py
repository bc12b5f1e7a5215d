"""Write a trained garments-tiny as ONNX: float16 storage, float32 arithmetic, opset 17."""

from __future__ import annotations

import argparse
import hashlib
import io
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from training.garments.network import INPUT_SIZE, Exported, GarmentNet

OPSET = 17
# What ONNX Runtime 1.17 reads; newer onnx packages would write a higher number.
IR_VERSION = 8
LEAST_HALVED = 256


def to_onnx(network: GarmentNet) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(
        Exported(network).eval(),
        (torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE),),
        buffer,
        input_names=["image"],
        output_names=["scores", "classes", "masks"],
        opset_version=OPSET,
        dynamo=False,
    )
    return onnx.load_from_string(buffer.getvalue())


def halve_storage(model: onnx.ModelProto) -> None:
    """Keep large weights as float16 and Cast them back, which a runtime folds away when it loads the file."""
    stored, casts = [], []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LEAST_HALVED:
            stored.append(tensor)
            continue
        half = tensor.name + "_half"
        stored.append(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
        casts.append(helper.make_node("Cast", [half], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(stored)
    model.graph.node.extend(nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    network = GarmentNet()
    network.load_state_dict(torch.load(arguments.checkpoint, weights_only=True))
    model = to_onnx(network)
    halve_storage(model)
    model.ir_version = IR_VERSION
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(model.SerializeToString(deterministic=True))
    digest = hashlib.sha256(arguments.out.read_bytes()).hexdigest()
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
