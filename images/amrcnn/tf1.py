"""TensorFlow's version 1 interface, imported once what it reads from the environment is in place.

Every module of this stack takes `tf` from here.
"""

from __future__ import annotations

import ctypes
import os
import sysconfig
from pathlib import Path
from typing import List

CUDA_LIBRARIES = ("cuda_runtime", "cublas", "cufft", "curand", "cusparse", "cusolver", "cudnn")
"""Folders of NVIDIA's wheels, each after those whose libraries its own ones need."""


def nvidia_folder() -> Path:
    """Where NVIDIA's wheels put their files; not there in an environment without them."""
    return Path(sysconfig.get_path("purelib")) / "nvidia"


def cuda_libraries(folder: Path) -> List[Path]:
    """CUDA's and cuDNN's libraries in the order to open them."""
    # cuBLAS needs cuBLASLt and cuDNN's parts need one another: whichever order works, all have their names afterwards.
    return [path for name in CUDA_LIBRARIES for path in sorted((folder / name / "lib").glob("lib*.so.*"))]


def _prepare() -> None:
    # All of the GPU's memory would be taken at once otherwise, whoever else needs some.
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    folder = nvidia_folder()
    if not folder.is_dir():
        return
    # TensorFlow opens them by name alone. The image sets LD_LIBRARY_PATH; an environment without an image has nobody
    # to set it before Python starts, but what is open already is found by its name too.
    waiting = cuda_libraries(folder)
    while waiting:
        left = [path for path in waiting if not _opens(path)]
        if len(left) == len(waiting):
            break  # the check of the device says what that means
        waiting = left
    tools = folder / "cuda_nvcc"
    os.environ["PATH"] = os.pathsep.join([str(tools / "bin"), os.environ.get("PATH", "")])
    os.environ.setdefault("XLA_FLAGS", f"--xla_gpu_cuda_data_dir={tools}")


def _opens(library: Path) -> bool:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


_prepare()

import tensorflow.compat.v1 as tf  # noqa: E402

tf.disable_eager_execution()
tf.logging.set_verbosity(tf.logging.ERROR)
__all__ = ["cuda_libraries", "nvidia_folder", "tf"]
