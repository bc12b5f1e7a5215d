"""The device that was asked for, or an error: TensorFlow itself would go on with the CPU after a warning."""

from __future__ import annotations

from typing import Any, Optional

from orch_runner.contract import Fatal
from tf1 import cuda_libraries, nvidia_folder, tf

HINT = "the worker's log names the library TensorFlow could not open, if that is it; without a GPU: --device cpu"


def session_options(threads: int) -> Any:
    """How sessions are opened: threads as given, and memory of a GPU taken as it is needed."""
    options = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
    options.gpu_options.allow_growth = True
    return options


def require(device: str, threads: int) -> None:
    """Make sure that sessions run on `device`, "cpu" or "cuda". Raises Fatal of the category "device"."""
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
        return
    problem = _problem(threads)
    if problem is not None:
        raise Fatal("device", 4, f"TensorFlow cannot use the GPU: {problem}", HINT)


def _problem(threads: int) -> Optional[str]:
    if not tf.test.is_built_with_cuda():
        return "this environment has TensorFlow for the CPU alone; choose the variant cuda"
    if not tf.config.list_physical_devices("GPU"):
        libraries = len(cuda_libraries(nvidia_folder()))
        return f"it finds none ({libraries} CUDA libraries are installed)"
    options = session_options(threads)
    options.allow_soft_placement = False
    try:
        with tf.Graph().as_default(), tf.device("/GPU:0"), tf.Session(config=options) as session:
            # A convolution: cuDNN is what most often fails where all else is well.
            ones = tf.ones((1, 8, 8, 4))
            found = float(session.run(tf.reduce_sum(tf.nn.conv2d(ones, tf.ones((3, 3, 4, 2)), padding="VALID"))))
    except Exception as error:  # whatever CUDA says
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None if found == 36 * 36 * 2 else f"a convolution gave {found}, expected {36 * 36 * 2}"
