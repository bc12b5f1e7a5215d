"""An ONNX Runtime session as stacks want it: explicit threads, and the provider asked for or an error.

Only stacks that have onnxruntime import this module; the runner itself does not.
"""

from __future__ import annotations

import onnxruntime

CPU = "CPUExecutionProvider"


def open_session(path: str, threads: int, provider: str = CPU, arena: bool = True) -> onnxruntime.InferenceSession:
    """A session on `provider` (the CPU beside it only for what that cannot do); raises RuntimeError on any other.

    `arena` false gives memory back after each image: for models whose input sizes differ much.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads slow every other worker of a busy machine down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    wanted = [provider] if provider == CPU else [provider, CPU]
    session = onnxruntime.InferenceSession(path, options, providers=wanted)
    # ONNX Runtime only warns when a provider is missing, and goes on with the CPU.
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"ONNX Runtime took {session.get_providers()[0]} instead of {provider}")
    return session
