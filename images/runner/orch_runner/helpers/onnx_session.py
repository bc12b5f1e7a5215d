"""Open ONNX Runtime sessions with explicit threads, on the requested device or not at all.

Only stacks with onnxruntime import this module; the runner itself does not.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple, Union

import onnxruntime

from orch_runner.contract import Fatal

PROVIDERS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # The default tries every algorithm again for each new image size.
    "cuda": ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}),
}


def open_session(
    graph: Union[str, bytes], threads: int, device: str = "cpu", arena: bool = True, pattern: bool = True
) -> onnxruntime.InferenceSession:
    """Open a session on `device` for a graph's path or bytes. Raises Fatal if it is not used.

    For models with very different input sizes: `arena` false frees memory after each image, `pattern` false
    does not reuse the memory plan of the previous image.
    """
    provider, provider_options = PROVIDERS[device]
    if device == "cuda":
        # CUDA and cuDNN lie in Python packages, which the dynamic loader does not search.
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads slow down the other workers of a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = pattern
    session = onnxruntime.InferenceSession(graph, options, providers=[(provider, provider_options)])
    # For a provider that cannot be loaded, ONNX Runtime only warns and uses the CPU.
    if session.get_providers()[0] != provider:
        raise Fatal("device", 4, f"ONNX Runtime uses {', '.join(session.get_providers())} instead of {provider}")
    return session
