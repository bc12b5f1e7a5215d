"""GPU or fail: before a model is loaded, a kernel of the stack's own framework runs on the GPU.

A framework that finds no GPU, or has no code for it, goes on with the CPU, or fails at the first image with "no
kernel image is available". Here either is an error that names GPU and reason.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Callable, Dict, Optional

from orch_runner.contract import Fatal
from orch_runner.gpu import cuda_driver

HINT = "orch plan MODEL says which variants run on this GPU (--variant); or ask for the CPU: --device cpu"
EXPECTED = 36 * 36 * 2
"""The sum over a 3×3 convolution of ones: 6×6 places, 2 channels, each 3·3·4."""


def probe(framework: str = "") -> str:
    """Run a kernel on the GPU with `framework`, else with each one installed; the GPU's name. Raises Fatal."""
    try:
        gpu = cuda_driver.find()
    except cuda_driver.NoGpu as error:
        raise Fatal("device", 4, f"there is no GPU to run on: {error}", HINT) from error
    names = [framework] if framework else [name for name in PROBES if importlib.util.find_spec(name) is not None]
    if not names:
        known = ", ".join(PROBES)
        raise Fatal("device", 4, f"nothing can be tried on {gpu}: none of {known} is installed, and the predictor has "
                    "no probe() of its own")  # fmt: skip
    for name in names:
        try:
            problem = PROBES[name](importlib.import_module(name))
        except Exception as error:  # whatever a framework, or CUDA through it, says
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        if problem is not None:
            raise Fatal("device", 4, f"{name} cannot use the GPU {gpu}: {problem}", HINT)
    return str(gpu)


def _wrong(found: float) -> Optional[str]:
    return None if found == EXPECTED else f"a convolution gave {found}, expected {EXPECTED}"


def _torch(torch: Any) -> Optional[str]:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        torch.cuda.init()  # says why
        return f"torch {torch.__version__}, for CUDA {torch.version.cuda}, finds none"
    try:
        images, kernels = torch.ones((1, 4, 8, 8), device="cuda"), torch.ones((2, 4, 3, 3), device="cuda")
        found = float(torch.nn.functional.conv2d(images, kernels).sum().item())
        torch.cuda.synchronize()
    except RuntimeError as error:
        code = ", ".join(torch.cuda.get_arch_list()) if hasattr(torch.cuda, "get_arch_list") else "?"
        return f"torch {torch.__version__} has code for {code}: {' '.join(str(error).split())[:300]}"
    return _wrong(found)


def _tensorflow(tensorflow: Any) -> Optional[str]:
    v1 = tensorflow.compat.v1
    if not tensorflow.test.is_built_with_cuda():
        return "this TensorFlow is built without CUDA"
    if not tensorflow.config.list_physical_devices("GPU"):
        return "TensorFlow finds none; the worker's log names the library that it could not open, if that is it"
    options = v1.ConfigProto(allow_soft_placement=False)
    options.gpu_options.allow_growth = True  # else this session would take all of the GPU's memory
    with tensorflow.Graph().as_default(), tensorflow.device("/GPU:0"), v1.Session(config=options) as session:
        images, kernels = tensorflow.ones((1, 8, 8, 4)), tensorflow.ones((3, 3, 4, 2))
        convolved = v1.nn.conv2d(images, kernels, strides=[1, 1, 1, 1], padding="VALID")
        return _wrong(float(session.run(tensorflow.reduce_sum(convolved))))


def _onnxruntime(onnxruntime: Any) -> Optional[str]:
    import numpy as np

    wanted = "CUDAExecutionProvider"
    offered = onnxruntime.get_available_providers()
    if wanted not in offered:
        return f"onnxruntime {onnxruntime.__version__} has {', '.join(offered)} alone"
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN come from their own packages, where nobody looks
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(convolution(), options, providers=[wanted])
    if session.get_providers()[:1] != [wanted]:
        return f"onnxruntime {onnxruntime.__version__} went on with {', '.join(session.get_providers())}: see the log"
    inputs = {"x": np.ones((1, 4, 8, 8), np.float32), "w": np.ones((2, 4, 3, 3), np.float32)}
    return _wrong(float(session.run(None, inputs)[0].sum()))


PROBES: Dict[str, Callable[[Any], Optional[str]]] = {
    "torch": _torch,
    "tensorflow": _tensorflow,
    "onnxruntime": _onnxruntime,
}


def convolution() -> bytes:
    """An ONNX model, y = Conv(x, w), encoded by hand: the onnx package is in no environment."""
    node = _field(1, b"x") + _field(1, b"w") + _field(2, b"y") + _field(4, b"Conv")
    values = [_value(b"x", 1, 4, 8, 8), _value(b"w", 2, 4, 3, 3)]
    graph = _field(1, node) + _field(2, b"probe") + b"".join(_field(11, one) for one in values)
    graph += _field(12, _value(b"y", 1, 2, 6, 6))
    return b"\x08\x07" + _field(7, graph) + _field(8, b"\x10\x0b")  # ir_version 7, opset 11


def _value(name: bytes, *shape: int) -> bytes:
    dimensions = b"".join(_field(1, bytes((8, size))) for size in shape)
    return _field(1, name) + _field(2, _field(1, b"\x08\x01" + _field(2, dimensions)))  # element type 1: float


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer; everything here is longer than nothing and short."""
    size = len(content)
    length = bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))
    return bytes((number << 3 | 2,)) + length + content
