"""Convert a Facere checkpoint to ONNX. Runs in an environment of its own (convert.lock); the host never imports it.

Contract: one JSON object on stdin,

    checkpoint  the file to read: what Lightning saved, or a plain state_dict
    onnx        the file to write; the host renames it after all checks
    model       name of the model, or null: the one whose class count fits, if any
    models      {name: class count, background included} of all models
    trust       whether pickled Python objects in the checkpoint may be loaded, which can run code

and on stdout a line of plain text for each step, then, as the last line, one JSON object: the result (see `convert`)
or {"error": {"kind", "message", "why", "hint"}} with kind "usage", "machine" or "failed"; either with exit status 0.
Any other end is a bug, with its traceback on stderr.
"""

from __future__ import annotations

import errno
import json
import pickle
import resource
import sys
import time
import types
import warnings

OPSET = 17
PREFIX = "model."
CLASS_KEY = "roi_heads.box_predictor.cls_score.weight"
SCORE_RTOL, SCORE_ATOL = 1e-3, 1e-5  # upstream's own
BOX_TOLERANCE = 1.0  # pixels
IMAGE_SIZES = ((480, 640), (451, 300))  # height, width: both orientations, one with odd sides
SHOWN_KEYS = 3


class ConversionError(Exception):
    """An expected failure. `kind`: "usage", "machine" or "failed"."""

    def __init__(self, kind, message, why=None, hint=None):
        super().__init__(message)
        self.fields = {"kind": kind, "message": message, "why": why, "hint": hint}


def report_step(text):
    """Print the name of a step."""
    print(text, flush=True)


def convert(job):
    """Convert the checkpoint; return the result. Raises ConversionError."""
    started = time.monotonic()
    report_step("importing PyTorch")
    import onnx
    import torch
    import torchvision

    report_step("reading the checkpoint")
    weights = network_weights(read_checkpoint(job["checkpoint"], job["trust"]))
    model_name = choose_model(weights, job["model"], job["models"])
    classes = weights[CLASS_KEY].shape[0] if model_name is None else job["models"][model_name]
    network = build_network(classes)
    fill(network, weights)
    del weights
    report_step(f"exporting {model_name or 'a model of its own'} with {classes} classes")
    export(network, job["onnx"])
    exported = onnx.load(job["onnx"])
    onnx.checker.check_model(exported)
    nodes, floor_constant = count_nodes(exported.graph), find_floor(exported, network.roi_heads.score_thresh)
    checks = [check(network, exported, floor_constant, size) for size in IMAGE_SIZES]
    return {
        "model": model_name,
        "classes": classes,
        "nodes": nodes,
        "opset": exported.opset_import[0].version,
        "tolerance": {"rtol": SCORE_RTOL, "atol": SCORE_ATOL, "box": BOX_TOLERANCE},
        "checks": checks,
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "onnx": onnx.__version__},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "seconds": round(time.monotonic() - started, 1),
    }


def read_checkpoint(path, trust):
    """Load the file on the CPU. Raises ConversionError for a damaged or untrusted file."""
    import torch

    try:
        refuse_programs(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConversionError("usage", "cannot read the checkpoint", str(error)) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        if machine_problem(error) is not None:
            raise
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
        if isinstance(error, pickle.UnpicklingError) and "nsupported" in reason:
            return _read_trusted(path) if trust else _refuse(reason)
        raise ConversionError(
            "usage", "the checkpoint is damaged or not a PyTorch file", _first_line(reason)
        ) from error


def refuse_programs(path):
    """Raise ConversionError for files with which PyTorch before 2.6 can run code despite weights_only.

    CVE-2025-32434. The checks are those of torch.load itself, so that no file can pass as another kind.
    """
    import tarfile

    from torch import serialization

    with open(path, "rb") as stream:
        zipped = serialization._is_zipfile(stream)
    if zipped:
        with serialization._open_zipfile_reader(path) as reader:
            kind = "a TorchScript program" if serialization._is_torchscript_zip(reader) else None
    else:
        kind = "in PyTorch's first format, a tar file" if tarfile.is_tarfile(path) else None
    if kind is not None:
        raise ConversionError("usage", "this is not a checkpoint that training saved", f"it is {kind}")


def _refuse(reason):
    raise ConversionError(
        "usage",
        "the checkpoint holds Python objects that are not plain tensors",
        f"{reason.splitlines()[0]}; loading such objects can run code of the file's author",
        "if you trust the file's origin, add --trust",
    )


def _read_trusted(path):
    import torch

    report_step("the checkpoint is trusted: loading its Python objects")
    module = types.SimpleNamespace(Unpickler=_Unpickler, load=pickle.load, __name__="pickle")
    try:
        return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)
    except Exception as error:  # whatever the objects' own code raises
        raise ConversionError("usage", "cannot load the checkpoint", _first_line(error)) from error


class _StandIn(dict):
    """Stand-in for an object of training whose package is not installed here."""

    def __init__(self, *arguments, **named):
        super().__init__()

    def __setstate__(self, state):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name.rpartition(".")[2], (_StandIn,), {})


def network_weights(loaded):
    """Return the network's own weights by torchvision's names. Raises ConversionError."""
    import torch

    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict):
        raise ConversionError("usage", "the checkpoint holds no state_dict", f"it holds a {type(state).__name__}")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}
    own = {key[len(PREFIX) :]: value for key, value in tensors.items() if key.startswith(PREFIX)}
    if not tensors:
        keys = ", ".join(map(str, list(state)[:8])) or "nothing"
        raise ConversionError("usage", "the checkpoint holds no state_dict", f"it holds {keys}")
    return own or tensors


def choose_model(weights, wanted, models):
    """Return the model that these weights are for; None for another number of classes than any model has.

    Raises ConversionError if they are not for `wanted`, or fit several models.
    """
    if CLASS_KEY not in weights:
        report_step("the checkpoint has no head of a Mask R-CNN")
        return wanted or next(iter(models))  # `fill` names all differences
    classes = weights[CLASS_KEY].shape[0]
    fitting = [name for name, count in models.items() if count == classes]
    if wanted is None and len(fitting) == 1:
        return fitting[0]
    if wanted in fitting or (wanted is None and not fitting):
        return wanted
    known = ", ".join(f"{name} has {count}" for name, count in models.items())
    raise ConversionError(
        "usage",
        f"this checkpoint has {classes} classes: "
        + (" or ".join(f"--model {name}" for name in fitting) if fitting else "no model has as many"),
        f"counting the background, {known}",
        None,
    )


def build_network(classes):
    """Build Facere's network without weights or downloads."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

    network = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    heads = network.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, classes)
    heads.mask_predictor = MaskRCNNPredictor(heads.mask_predictor.conv5_mask.in_channels, 256, classes)
    return network.eval()


def fill(network, weights):
    """Load the weights into the network. Raises ConversionError that names keys which do not fit."""
    import torch

    expected = network.state_dict()
    shapes = {key: (tuple(value.shape), tuple(weights[key].shape)) for key, value in expected.items() if key in weights}
    problems = {
        "missing": sorted(expected.keys() - weights.keys()),
        "not expected": sorted(weights.keys() - expected.keys()),
        "of another shape": [f"{key} {got}, not {want}" for key, (want, got) in shapes.items() if want != got],
    }
    if any(problems.values()):
        why = "\n".join(f"{name}: {_some(keys)}" for name, keys in problems.items() if keys)
        raise ConversionError("usage", "this is not a checkpoint of a torchvision Mask R-CNN ResNet-50 FPN v2", why)
    broken = [key for key, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise ConversionError("usage", "the checkpoint's weights are not all finite numbers", _some(broken))
    network.load_state_dict(weights, strict=True)


def _some(keys):
    more = len(keys) - SHOWN_KEYS
    return ", ".join(keys[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")


def export(network, path):
    """Write the network as ONNX, as upstream's own export does, so that both files have the same graph."""
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # hundreds, about torchvision's own tracing
        torch.onnx.export(
            network,
            torch.rand(1, 3, 224, 224),
            path,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch_size", 2: "height", 3: "width"}, "output": {0: "batch_size"}},
        )


def count_nodes(graph):
    """Count the nodes of a graph, including those inside its loops and branches."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return len(graph.node) + sum(count_nodes(part) for part in inner)


def check(network, exported, floor_constant, size):
    """Compare PyTorch and ONNX Runtime on one drawn picture. Raises ConversionError when they differ.

    The network may detect nothing in a drawn picture. So both predict with a score floor that is low enough for some
    detections to compare.
    """
    import torch

    height, width = size
    report_step(f"comparing PyTorch and ONNX Runtime at {width}×{height}")
    image = draw_picture(height, width)
    floor = network.roi_heads.score_thresh
    try:
        network.roi_heads.score_thresh = used = choose_floor(network, image)
        with torch.no_grad():
            expected = network(torch.from_numpy(image))[0]
    finally:
        network.roi_heads.score_thresh = floor
    wanted = [expected[name].numpy() for name in ("boxes", "labels", "scores", "masks")]
    found = run_onnx(exported, floor_constant, used, image)
    return compare(wanted, found, size, used, network.roi_heads.detections_per_img)


def compare(wanted, found, size, floor, limit):
    """Return the differences as a JSON object. Raises ConversionError if they exceed the tolerance."""
    import numpy as np

    where = f"at {size[1]}×{size[0]}"
    if len(wanted[2]) != len(found[2]):
        why = f"{len(wanted[2])} detections and {len(found[2])} {where}"
        raise ConversionError("failed", "PyTorch and ONNX Runtime detect different numbers of objects", why)
    judged = np.arange(len(wanted[2]))
    if len(judged) == limit:  # of equally scored detections, either may be the last one kept
        judged = np.flatnonzero(wanted[2] > wanted[2].min() + SCORE_ATOL)
    # Equal scores have any order: a detection's partner is the nearest box of its label.
    apart = np.abs(wanted[0][judged, None] - found[0][None]).max(-1, initial=0)
    apart[wanted[1][judged, None] != found[1][None]] = max(size)
    partner = apart.argmin(1) if len(judged) else judged
    differences = {
        "score": float(np.abs(wanted[2] - found[2]).max(initial=0)),
        "box": float(apart.min(1, initial=max(size)).max(initial=0)),
        "mask": float(np.abs(wanted[3][judged] - found[3][partner]).max(initial=0)),
    }
    if not np.allclose(wanted[2], found[2], rtol=SCORE_RTOL, atol=SCORE_ATOL) or differences["box"] > BOX_TOLERANCE:
        why = f"scores by {differences['score']:.2g}, boxes by {differences['box']:.2g} pixels {where}"
        raise ConversionError("failed", "PyTorch and ONNX Runtime differ", why)
    detections = {"scores_compared": len(wanted[2]), "boxes_compared": len(judged)}
    return {"width": size[1], "height": size[0], **detections, "score_floor": floor, "differences": differences}


def draw_picture(height, width):
    """Draw smooth shapes with some noise, equal on all machines: (1, 3, height, width) in [0, 1]."""
    import numpy as np

    y, x = np.mgrid[0:height, 0:width] / np.float32(max(height, width))
    waves = [np.sin(x * a + y * b) * np.cos(y * a - x * c) for a, b, c in ((21, 5, 3), (9, 17, 2), (4, 13, 29))]
    noise = np.random.default_rng(0).random((3, height, width), dtype=np.float32)
    return (0.45 + 0.4 * np.stack(waves) + 0.1 * noise).astype(np.float32)[None]


def choose_floor(network, image):
    """Return a score floor that about 40 to 80 candidates pass; at most the network's own."""
    import torch

    scores = []
    hook = network.roi_heads.box_predictor.register_forward_hook(lambda _, __, output: scores.append(output[0]))
    try:
        with torch.no_grad():
            network(torch.from_numpy(image))
    finally:
        hook.remove()
    ranked = torch.softmax(scores[0], -1)[:, 1:].flatten().sort(descending=True).values[:80].tolist()
    # In the widest gap: a candidate near the floor could pass it in only one of the two.
    gap = max(range(40, len(ranked) - 1), key=lambda rank: ranked[rank] - ranked[rank + 1], default=None)
    chosen = 0.0 if gap is None else (ranked[gap] + ranked[gap + 1]) / 2
    return min(chosen, network.roi_heads.score_thresh)


def run_onnx(exported, floor_constant, floor, image):
    """Return ONNX Runtime's four outputs for an image, with this score floor inside the graph."""
    import numpy as np
    import onnx
    import onnxruntime

    floor_constant.CopyFrom(onnx.numpy_helper.from_array(np.float32(floor), floor_constant.name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about the graph's shape, not about its results
    content = exported.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})


def find_floor(exported, floor):
    """Return the constant in the graph that scores are compared with. Raises ConversionError."""
    import numpy as np
    import onnx

    nodes = exported.graph.node
    constants = {tensor.name: tensor for tensor in exported.graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant"}
    names = [name for node in nodes if node.op_type == "Greater" for name in node.input if name in constants]
    floors = [name for name in names if onnx.numpy_helper.to_array(constants[name]).tolist() == np.float32(floor)]
    if len(floors) != 1:
        raise ConversionError("failed", "the exported graph is not as expected", f"it has {len(floors)} score floors")
    return constants[floors[0]]


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def machine_problem(error):
    """Return the resource that the machine lacks, or None for an error of another cause."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "memory"
    return "space on the disk" if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) else None


def main():
    """Read the job, convert, print the outcome."""
    job = json.loads(sys.stdin.read())
    try:
        outcome = convert(job)
    except ConversionError as error:
        outcome = {"error": error.fields}
    except (OSError, MemoryError, RuntimeError) as error:
        lacking = machine_problem(error)
        if lacking is None:
            raise
        fields = {"kind": "machine", "message": f"not enough {lacking}", "why": _first_line(error), "hint": None}
        outcome = {"error": fields}
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
