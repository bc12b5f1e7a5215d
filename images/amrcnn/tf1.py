"""Import TensorFlow's version 1 interface, after setting the environment that it reads.

All modules of this stack import `tf` from here.
"""

from __future__ import annotations

import ctypes
import os
import sysconfig
from pathlib import Path
from typing import List

CUDA_LIBRARIES = ("cuda_runtime", "cublas", "cufft", "curand", "cusparse", "cusolver", "cudnn")
"""Folders of NVIDIA's wheels, each after those that it depends on."""


def nvidia_folder() -> Path:
    """Return the folder of NVIDIA's wheels, which may not exist."""
    return Path(sysconfig.get_path("purelib")) / "nvidia"


def cuda_libraries(folder: Path) -> List[Path]:
    """Return CUDA's and cuDNN's libraries in the order to open them."""
    # cuBLAS needs cuBLASLt and cuDNN's parts need one another; _prepare retries until all are open.
    return [path for name in CUDA_LIBRARIES for path in sorted((folder / name / "lib").glob("lib*.so.*"))]


def _prepare() -> None:
    # By default TensorFlow reserves all of the GPU's memory at once.
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    folder = nvidia_folder()
    if not folder.is_dir():
        return
    # TensorFlow opens them by name. The image sets LD_LIBRARY_PATH; in a venv nothing sets it before Python starts,
    # but a library that is already open is found by its name, too.
    waiting = cuda_libraries(folder)
    while waiting:
        failed = [path for path in waiting if not _try_open(path)]
        if len(failed) == len(waiting):
            break  # the probe of the device reports the consequence
        waiting = failed
    tools = folder / "cuda_nvcc"
    os.environ["PATH"] = os.pathsep.join([str(tools / "bin"), os.environ.get("PATH", "")])
    os.environ.setdefault("XLA_FLAGS", f"--xla_gpu_cuda_data_dir={tools}")


def _try_open(library: Path) -> bool:
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
