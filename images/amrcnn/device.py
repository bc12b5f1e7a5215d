"""How sessions are opened on the device that was asked for; that a GPU can be used, the runner's probe has seen."""

from __future__ import annotations

from typing import Any

from tf1 import tf


def session_options(threads: int) -> Any:
    """How sessions are opened: threads as given, and memory of a GPU taken as it is needed."""
    options = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
    options.gpu_options.allow_growth = True
    return options


def hide_gpus() -> None:
    """Make sure that sessions run on the CPU, even where TensorFlow sees a GPU."""
    tf.config.set_visible_devices([], "GPU")
