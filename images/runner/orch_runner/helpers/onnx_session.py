"""An ONNX Runtime session as stacks want it: explicit threads, and the provider asked for or an error.

Only stacks that have onnxruntime import this module; the runner itself does not.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple, Union

import onnxruntime

from orch_runner.contract import Fatal

PROVIDERS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # The default tries every algorithm anew for every size of image.
    "cuda": ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}),
}


def open_session(
    graph: Union[str, bytes], threads: int, device: str = "cpu", arena: bool = True, pattern: bool = True
) -> onnxruntime.InferenceSession:
    """A session on `device` for a graph's path or bytes; raises Fatal rather than run elsewhere.

    For models whose input sizes differ much: `arena` false gives memory back after each image, `pattern` false
    does not plan one image's memory by another's.
    """
    provider, provider_options = PROVIDERS[device]
    if device == "cuda":
        # CUDA and cuDNN come from their own packages, where the dynamic loader does not look.
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads slow every other worker of a busy machine down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = pattern
    session = onnxruntime.InferenceSession(graph, options, providers=[(provider, provider_options)])
    # A provider that cannot be loaded is only a warning, and the CPU does the work.
    if session.get_providers()[0] != provider:
        raise Fatal("device", 4, f"ONNX Runtime chose {session.get_providers()}, wanted {provider}")
    return session
