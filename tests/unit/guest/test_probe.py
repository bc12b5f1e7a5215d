"""GPU or fail: what the runner's probe says of drivers and frameworks that cannot.

The frameworks are stand-ins here, as no GPU is; that the ONNX model is one, real ONNX Runtimes see (tests/conformance).
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from orch_runner.contract import Fatal
from orch_runner.gpu import cuda_driver, probe

H100 = cuda_driver.CudaGpu("NVIDIA H100 80GB HBM3", "9.0", "12.2")
ON = "the GPU NVIDIA H100 80GB HBM3 (compute capability 9.0, driver for CUDA 12.2)"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "query_gpu", lambda: H100)


class Cuda:
    """A driver library whose calls end with the codes it is given, and which has an H100."""

    def __init__(self, **codes: int) -> None:
        self._codes = codes

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == "cuDeviceGetName":
                arguments[0].value = b"NVIDIA H100 80GB HBM3"
            if name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 9, 76: 0}[arguments[1]]
            if name == "cuDriverGetVersion":
                arguments[0]._obj.value = 12020
            return self._codes.get(name, 0)

        return call


def test_the_driver_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda _: Cuda())
    assert cuda_driver.query_gpu() == H100
    assert str(H100) in ON


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ({"cuInit": 100}, "cuInit failed with 100: this worker sees no GPU"),
        ({"cuInit": 803}, "cuInit failed with 803: the driver's library and its kernel module have different versions"),
        ({"cuDeviceGet": 101}, "cuDeviceGet failed with 101: the selected GPU does not exist"),
        ({"cuDeviceGetName": 7}, "cuDeviceGetName failed with 7: see CUresult"),
    ],
)
def test_a_driver_that_cannot_says_why(monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], said: str) -> None:
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda _: Cuda(**codes))
    with pytest.raises(Fatal) as caught:
        probe.probe("torch")
    assert (caught.value.category, caught.value.exit_code) == ("device", 4)
    assert str(caught.value).startswith(f"no usable GPU: {said}")
    assert "--device cpu" in str(caught.value.hint)


def test_where_no_driver_is_shown_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    with pytest.raises(Fatal, match="this worker has no GPU driver"):
        probe.probe("torch")


def torch(*, cuda: str | None = "10.2", available: bool = True, result: float = probe.EXPECTED, error: str = "") -> Any:
    def convolve(*_: Any) -> Any:
        if error:
            raise RuntimeError(error)
        return SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: result))

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 10010).")

    return SimpleNamespace(
        __version__="1.9.0", __spec__=object(), version=SimpleNamespace(cuda=cuda), ones=lambda *_, **__: None,
        cuda=SimpleNamespace(is_available=lambda: available, init=init, synchronize=lambda: None,
                             get_arch_list=lambda: ["sm_37", "sm_70"]),
        nn=SimpleNamespace(functional=SimpleNamespace(conv2d=convolve)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        (torch(cuda=None), "torch 1.9.0 is built without CUDA"),
        (torch(available=False), "RuntimeError: The NVIDIA driver on your system is too old (found version 10010)."),
        (torch(error="CUDA error: no kernel image\nis available"),
         "torch 1.9.0 has code for sm_37, sm_70: CUDA error: no kernel image is available"),
        (torch(result=0.0), "a convolution gave 0.0, expected 2592"),
    ],
)  # fmt: skip
def test_torch_that_cannot_is_named_with_the_gpu(
    gpu: None, monkeypatch: pytest.MonkeyPatch, fake: Any, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake)
    with pytest.raises(Fatal) as caught:
        probe.probe("torch")
    assert str(caught.value) == f"torch cannot use {ON}: {said}"
    assert "orch plan MODEL" in str(caught.value.hint)


def test_torch_that_can_gives_the_gpus_name(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch())
    assert probe.probe("torch") == str(H100)


class Session:
    """An ONNX Runtime session on the provider that a test sets."""

    provider = "CUDAExecutionProvider"

    def __init__(self, model: bytes, options: Any, providers: list[str]) -> None:
        assert options.entries == {"session.disable_cpu_ep_fallback": "1"}
        assert providers == ["CUDAExecutionProvider"]

    def get_providers(self) -> list[str]:
        return [self.provider, "CPUExecutionProvider"]

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.full((1, 2, 6, 6), inputs["w"][0].sum())]


class Options:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


def onnxruntime(provider: str, offered: str = "CUDAExecutionProvider") -> Any:
    session = type("Session", (Session,), {"provider": provider})
    return SimpleNamespace(
        __version__="1.23", __spec__=object(), SessionOptions=Options, InferenceSession=session,
        get_available_providers=lambda: [offered],
    )  # fmt: skip


def test_onnx_runtime_has_to_have_chosen_cuda(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime("CUDAExecutionProvider"))
    assert probe.probe("onnxruntime") == str(H100)
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime("AzureExecutionProvider"))
    with pytest.raises(Fatal, match="uses AzureExecutionProvider, CPUExecutionProvider instead: see the log"):
        probe.probe("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime("x", "CPUExecutionProvider"))
    with pytest.raises(Fatal, match=r"onnxruntime 1\.23 has only CPUExecutionProvider"):
        probe.probe("onnxruntime")


def test_with_nothing_to_try_it_is_an_error_too(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Fatal, match="none of torch, tensorflow, onnxruntime is installed"):
        probe.probe()
