"""Run a kernel of the stack's framework on the GPU before a model is loaded, or fail with the reason.

A framework without a usable GPU silently uses the CPU, or fails at the first image with "no kernel image is
available". The probe turns either into an error that names GPU and reason.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Callable, Dict, Optional

from orch_runner.contract import Fatal
from orch_runner.gpu import cuda_driver

HINT = "orch plan MODEL lists the variants that run on this GPU (--variant); or use the CPU: --device cpu"
EXPECTED = 36 * 36 * 2
"""The sum over a 3×3 convolution of ones: 6×6 pixels, 2 channels, each 3·3·4."""


def probe(framework: str = "") -> str:
    """Run a kernel on the GPU with `framework` ("": each installed one); return its name. Raises Fatal."""
    try:
        gpu = cuda_driver.query_gpu()
    except cuda_driver.NoGpu as error:
        raise Fatal("device", 4, f"no usable GPU: {error}", HINT) from error
    names = [framework] if framework else [name for name in PROBES if importlib.util.find_spec(name) is not None]
    if not names:
        known = ", ".join(PROBES)
        message = f"cannot probe {gpu}: none of {known} is installed, and the predictor does not override probe()"
        raise Fatal("device", 4, message)
    for name in names:
        try:
            problem = PROBES[name](importlib.import_module(name))
        except Exception as error:  # frameworks, and CUDA below them, raise errors of any class
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        if problem is not None:
            raise Fatal("device", 4, f"{name} cannot use the GPU {gpu}: {problem}", HINT)
    return str(gpu)


def _check_sum(total: float) -> Optional[str]:
    return None if total == EXPECTED else f"a convolution gave {total}, expected {EXPECTED}"


def _torch(torch: Any) -> Optional[str]:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        torch.cuda.init()  # raises the reason
        return f"torch {torch.__version__}, for CUDA {torch.version.cuda}, does not see it"
    try:
        images, kernels = torch.ones((1, 4, 8, 8), device="cuda"), torch.ones((2, 4, 3, 3), device="cuda")
        total = float(torch.nn.functional.conv2d(images, kernels).sum().item())
        torch.cuda.synchronize()
    except RuntimeError as error:
        code = ", ".join(torch.cuda.get_arch_list()) if hasattr(torch.cuda, "get_arch_list") else "?"
        return f"torch {torch.__version__} has code for {code}: {' '.join(str(error).split())[:300]}"
    return _check_sum(total)


def _tensorflow(tensorflow: Any) -> Optional[str]:
    v1 = tensorflow.compat.v1
    if not tensorflow.test.is_built_with_cuda():
        return "this TensorFlow is built without CUDA"
    if not tensorflow.config.list_physical_devices("GPU"):
        return "TensorFlow does not see it; the worker's log names any library that cannot be opened"
    options = v1.ConfigProto(allow_soft_placement=False)
    options.gpu_options.allow_growth = True  # the default reserves all of the GPU's memory
    with tensorflow.Graph().as_default(), tensorflow.device("/GPU:0"), v1.Session(config=options) as session:
        images, kernels = tensorflow.ones((1, 8, 8, 4)), tensorflow.ones((3, 3, 4, 2))
        convolved = v1.nn.conv2d(images, kernels, strides=[1, 1, 1, 1], padding="VALID")
        return _check_sum(float(session.run(tensorflow.reduce_sum(convolved))))


def _onnxruntime(onnxruntime: Any) -> Optional[str]:
    import numpy as np

    provider = "CUDAExecutionProvider"
    available = onnxruntime.get_available_providers()
    if provider not in available:
        return f"onnxruntime {onnxruntime.__version__} has only {', '.join(available)}"
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN lie in Python packages, which the dynamic loader does not search
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(make_convolution(), options, providers=[provider])
    if session.get_providers()[:1] != [provider]:
        return f"onnxruntime {onnxruntime.__version__} uses {', '.join(session.get_providers())} instead: see the log"
    inputs = {"x": np.ones((1, 4, 8, 8), np.float32), "w": np.ones((2, 4, 3, 3), np.float32)}
    return _check_sum(float(session.run(None, inputs)[0].sum()))


PROBES: Dict[str, Callable[[Any], Optional[str]]] = {
    "torch": _torch,
    "tensorflow": _tensorflow,
    "onnxruntime": _onnxruntime,
}


def make_convolution() -> bytes:
    """Return an ONNX model, y = Conv(x, w), encoded by hand: no environment has the onnx package."""
    node = _field(1, b"x") + _field(1, b"w") + _field(2, b"y") + _field(4, b"Conv")
    values = [_value(b"x", 1, 4, 8, 8), _value(b"w", 2, 4, 3, 3)]
    graph = _field(1, node) + _field(2, b"probe") + b"".join(_field(11, value) for value in values)
    graph += _field(12, _value(b"y", 1, 2, 6, 6))
    return b"\x08\x07" + _field(7, graph) + _field(8, b"\x10\x0b")  # ir_version 7, opset 11


def _value(name: bytes, *shape: int) -> bytes:
    dimensions = b"".join(_field(1, bytes((8, size))) for size in shape)
    return _field(1, name) + _field(2, _field(1, b"\x08\x01" + _field(2, dimensions)))  # element type 1: float


def _field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field of a protocol buffer, of 1 to 16383 bytes."""
    size = len(content)
    length = bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))
    return bytes((number << 3 | 2,)) + length + content
