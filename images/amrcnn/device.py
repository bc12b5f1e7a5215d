"""Configure sessions for the requested device; the runner has already probed a GPU."""

from __future__ import annotations

from typing import Any

from tf1 import tf


def session_options(threads: int) -> Any:
    """Return session options with these threads, and a GPU's memory allocated as needed."""
    options = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
    options.gpu_options.allow_growth = True
    return options


def hide_gpus() -> None:
    """Make all sessions run on the CPU, even if TensorFlow sees a GPU."""
    tf.config.set_visible_devices([], "GPU")
