"""amrcnn: Attribute Mask R-CNN, trained on Fashionpedia, in TensorFlow 2.11 with upstream's own modules.

The graph takes the decoded image and returns boxes, classes, scores, attributes and small masks; the runner's threads
paste the masks into the image, each inside its box.
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


class GraphOutputs(NamedTuple):
    """The graph's outputs: boxes (N, 4) y1 x1 y2 x2, classes and scores (N,), attributes (N, A), masks (N, m, m)."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    attributes: np.ndarray
    masks: np.ndarray


class Predictor(BasePredictor):
    color = "RGB"
    # Upstream decodes with TensorFlow or Pillow, depending on its data format.
    decoder = "pillow"
    # The graph has one suppression per image; other batch sizes need other graphs, with slightly different results.
    max_batch = 1
    framework = "tensorflow"

    def load(self, model: Model, device: str) -> None:
        if device == "cpu":
            hide_gpus()
        prefix = find_prefix(model.weights[WEIGHTS])
        graph = open_graph(model.architecture, model.sources[SOURCE], model.settings, model.cache, model.own_config)
        self._session = tf.Session(graph=graph, config=session_options(model.threads))
        restore(self._session, model.name, prefix)
        fetches = [graph.get_tensor_by_name(output_name(name)) for name in OUTPUTS]
        self._run = self._session.make_callable(fetches, [graph.get_tensor_by_name(f"{IMAGE}:0")])

    def predict(self, images: List[Image]) -> List[Any]:
        return [self._predict(image.pixels) for image in images]

    def _predict(self, pixels: np.ndarray) -> GraphOutputs:
        count, boxes, classes, scores, attributes, masks = self._run(pixels)
        number = int(count[0])
        # Copies: a slice would keep the arrays of 100 detections in memory.
        kept = [values[0, :number].copy() for values in (boxes, classes, scores, attributes, masks)]
        return GraphOutputs(*kept)

    def finish(self, raw: GraphOutputs, image: Image) -> Prediction:
        height, width = image.pixels.shape[:2]
        masks = paste(raw.masks, raw.boxes, height, width)
        return Prediction(raw.boxes, raw.classes, raw.scores, masks, raw.attributes)

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        """Write a random checkpoint that gives meaningless detections on photographs."""
        from random_weights import write_random_weights

        write_random_weights(model, folder, seed)


def restore(session: Any, model: str, prefix: str) -> None:
    """Load the variables of the session's graph from a checkpoint. Raises Fatal("weights")."""
    with session.graph.as_default():
        try:
            variables = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
            expected = {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}
            check_variables(model, variables, expected)
            tf.get_collection(tf.GraphKeys.SAVERS)[0].restore(session, prefix)
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise Fatal("weights", 3, f"cannot read the checkpoint {prefix}: {reason}") from error
