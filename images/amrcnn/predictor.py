"""amrcnn: Attribute Mask R-CNN, trained on Fashionpedia, in TensorFlow 2.11 by upstream's own modules.

The graph takes the decoded image and gives boxes, classes, scores, attributes and small masks; those are put into the
image in the runner's threads, each inside its box alone.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple

import numpy as np
from checkpoint import check_variables, find_prefix
from device import hide_gpus, session_options
from metagraph import open_graph
from network import IMAGE, OUTPUTS, output_name
from orch_runner.contract import Fatal
from orch_runner.predictor import Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor
from paste import paste
from settings import SOURCE, WEIGHTS
from tf1 import tf


class Found(NamedTuple):
    """What the graph gives: boxes (N, 4) y1 x1 y2 x2, classes and scores (N,), attributes (N, A), masks (N, m, m)."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    attributes: np.ndarray
    masks: np.ndarray


class Predictor(BasePredictor):
    color = "RGB"
    # Upstream decodes with TensorFlow or Pillow, by how its images are packed; Pillow is every other stack's too.
    decoder = "pillow"
    # The graph holds one suppression per image: other sizes would be other graphs, and not bitwise the same results.
    max_batch = 1
    framework = "tensorflow"

    def load(self, model: Model, device: str) -> None:
        if device == "cpu":
            hide_gpus()
        prefix = find_prefix(model.weights[WEIGHTS])
        graph = open_graph(model.name, model.sources[SOURCE], model.settings, model.cache)
        self._session = tf.Session(graph=graph, config=session_options(model.threads))
        restore(self._session, model.name, prefix)
        fetches = [graph.get_tensor_by_name(output_name(name)) for name in OUTPUTS]
        self._run = self._session.make_callable(fetches, [graph.get_tensor_by_name(f"{IMAGE}:0")])

    def predict(self, images: List[Image]) -> List[Any]:
        return [self._predict(image.pixels) for image in images]

    def _predict(self, pixels: np.ndarray) -> Found:
        count, boxes, classes, scores, attributes, masks = self._run(pixels)
        number = int(count[0])
        # Copies: the arrays have room for 100 detections, and would be kept while one is.
        kept = [values[0, :number].copy() for values in (boxes, classes, scores, attributes, masks)]
        return Found(*kept)

    def finish(self, raw: Found, image: Image) -> Prediction:
        height, width = image.pixels.shape[:2]
        masks = paste(raw.masks, raw.boxes, height, width)
        return Prediction(raw.boxes, raw.classes, raw.scores, masks, raw.attributes)

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        """Write a checkpoint that finds something on photographs, though nothing sensible."""
        from random_weights import write_random_weights

        write_random_weights(model, folder, seed)


def restore(session: Any, model: str, prefix: str) -> None:
    """Load the variables of the session's graph from a checkpoint. Raises Fatal of the category "weights"."""
    with session.graph.as_default():
        try:
            there = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
            check_variables(model, there, {one.op.name: one.shape.as_list() for one in tf.global_variables()})
            tf.get_collection(tf.GraphKeys.SAVERS)[0].restore(session, prefix)
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise Fatal("weights", 3, f"the checkpoint {prefix} cannot be read: {reason}") from error
