"""`orch convert facere` for real: PyTorch's own environment, random checkpoints like Lightning's, both models.

Fetches 2 GB of wheels, needs 4.3 GB of disk, 2.5 GB of memory and some minutes. $ORCH_TEST_HOME, a cache folder to use
instead of a new one, keeps the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import StackEntry, load_catalog
from orchestrator.catalog.weights import weights_state
from orchestrator.errors import UsageError
from orchestrator.paths import weights_folder
from orchestrator.runtimes.environments import ensure_environment
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.convert import LOCK_NAME, PYTHONS, ConvertOptions, convert_checkpoint, suggest_model

pytestmark = pytest.mark.heavy

NETWORK = """
import json, sys, torch, numpy
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
path, classes = sys.argv[1], int(sys.argv[2])
torch.manual_seed(classes)
network = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
network.roi_heads.box_predictor = FastRCNNPredictor(1024, classes)
network.roi_heads.mask_predictor = MaskRCNNPredictor(256, 256, classes)
"""
SAVE = f"""{NETWORK}
from collections import OrderedDict
state = OrderedDict(("model." + key, value) for key, value in network.state_dict().items())
monitored = {{"best_model_score": torch.tensor(0.5), "dirpath": "saved_models"}}
torch.save({{"epoch": 3, "global_step": 9, "pytorch-lightning_version": "1.9.5", "state_dict": state, "loops": {{}},
            "callbacks": {{"ModelCheckpoint": monitored}}, "optimizer_states": [], "lr_schedulers": [],
            "hparams_name": "kwargs", "hyper_parameters": eval(sys.argv[3])}}, path)
"""
COMPARE = f"""{NETWORK}
import onnxruntime
state = torch.load(sys.argv[3], weights_only=True)["state_dict"]
network.load_state_dict({{key[len("model."):]: value for key, value in state.items()}})
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
rows = []
for height, width in ((333, 500), (600, 400)):
    image = numpy.random.default_rng(height).random((1, 3, height, width), dtype=numpy.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(image))[0]["scores"].numpy()
    boxes, labels, scores, masks = session.run(None, {{"input": image}})
    same = wanted.shape == scores.shape and bool(numpy.allclose(wanted, scores, rtol=1e-3, atol=1e-5))
    rows.append([len(wanted), same, list(boxes.shape), str(labels.dtype), list(masks.shape)])
print(json.dumps({{"input": session.get_inputs()[0].shape, "rows": rows}}))
"""
CLASSES = {"facere": 47, "facere+": 23}


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCH_HOME", os.environ.get("ORCH_TEST_HOME") or str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def stack(_home: None) -> StackEntry:
    return load_catalog([]).stack("facere")


@pytest.fixture(scope="module")
def python(stack: StackEntry) -> Path:
    """The environment's interpreter."""
    name = f"{stack.name}-convert"
    folder, _ = ensure_environment(name, stack.folder / LOCK_NAME, PYTHONS, lambda line: None, partial=True)
    return folder / "bin" / "python"


def run(python: Path, code: str, *arguments: object) -> str:
    command = [str(python), "-I", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=True).stdout


def save(python: Path, path: Path, classes: int, hyper_parameters: str = "{'optimizer_name': 'sgd'}") -> Path:
    """A checkpoint with random weights; gives its path."""
    run(python, SAVE, path, classes, hyper_parameters)
    return path


@pytest.mark.parametrize("model", list(CLASSES))
def test_a_random_checkpoint_is_converted(stack: StackEntry, python: Path, tmp_path: Path, model: str) -> None:
    checkpoint = save(python, tmp_path / "model.ckpt", CLASSES[model])
    converted = convert_checkpoint(
        stack, ConvertOptions(checkpoint, tmp_path / "model.onnx", add=True), SilentDisplay()
    )
    details = converted.details
    assert converted.model is not None
    assert (converted.model.name, details["classes"], details["opset"]) == (model, CLASSES[model], 17)
    assert all(check["scores_compared"] > 20 for check in details["checks"])
    assert 170e6 < converted.onnx.stat().st_size < 200e6
    seen: dict[str, Any] = json.loads(run(python, COMPARE, converted.onnx, CLASSES[model], checkpoint))
    assert seen["input"] == ["batch_size", 3, "height", "width"]
    for (height, width), (count, same, boxes, labels, masks) in zip(
        ((333, 500), (600, 400)), seen["rows"], strict=True
    ):
        assert count > 0
        assert same
        assert (boxes, labels, masks) == ([count, 4], "int64", [count, 1, height, width])
    assert weights_state(converted.model, "onnx") == "present"
    assert converted.added is not None
    assert converted.added.path is not None
    assert converted.added.path.parent == weights_folder("facere", model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt", "model.onnx"]


def test_a_checkpoint_of_the_other_model(stack: StackEntry, python: Path, tmp_path: Path) -> None:
    checkpoint = save(python, tmp_path / "model.ckpt", 23)
    options = ConvertOptions(checkpoint, tmp_path / "model.onnx", load_catalog([]).model("facere"))
    with pytest.raises(UsageError, match=r"this checkpoint has 23 classes: --model facere\+"):
        convert_checkpoint(stack, options, SilentDisplay())
    checkpoint = save(python, tmp_path / "model.ckpt", 30)
    with pytest.raises(UsageError, match="this checkpoint has 30 classes: no model has as many"):
        convert_checkpoint(stack, options, SilentDisplay())
    assert not (tmp_path / "model.onnx").exists()


def test_a_checkpoint_with_other_classes_than_any_model_has(stack: StackEntry, python: Path, tmp_path: Path) -> None:
    checkpoint = save(python, tmp_path / "model.ckpt", 4)
    converted = convert_checkpoint(stack, ConvertOptions(checkpoint, tmp_path / "model.onnx"), SilentDisplay())
    assert (converted.model, converted.details["classes"]) == (None, 4)
    assert suggest_model(stack, converted).endswith("model.onnx --categories NAME1,NAME2,NAME3")


def test_objects_are_loaded_only_on_request(stack: StackEntry, python: Path, tmp_path: Path) -> None:
    checkpoint = save(python, tmp_path / "model.ckpt", 23, "__import__('pathlib').Path('x')")
    with pytest.raises(UsageError, match="Python objects") as caught:
        convert_checkpoint(stack, ConvertOptions(checkpoint, tmp_path / "model.onnx"), SilentDisplay())
    assert "pathlib.PosixPath" in str(caught.value.why)
    assert "--trust" in str(caught.value.hint)
    converted = convert_checkpoint(
        stack, ConvertOptions(checkpoint, tmp_path / "model.onnx", trust=True), SilentDisplay()
    )
    assert converted.model is not None
    assert converted.model.name == "facere+"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("torch.jit.script(torch.nn.Linear(2, 2)).save(path)", "not a checkpoint that training saved"),
        ("torch.save([1, 2], path)", "holds no state_dict"),
        ("torch.save({'state_dict': {'model.x': torch.zeros(1)}}, path)", "not a checkpoint of a torchvision"),
        ("torch.save({'a': torch.zeros(9)}, path, _use_new_zipfile_serialization=False); "
         "import os; os.truncate(path, os.path.getsize(path) - 8)", "damaged"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_of_facere(
    stack: StackEntry, python: Path, tmp_path: Path, code: str, words: str
) -> None:
    run(python, f"import sys, torch; path = sys.argv[1]; {code}", tmp_path / "model.ckpt")
    with pytest.raises(UsageError, match=words):
        convert_checkpoint(stack, ConvertOptions(tmp_path / "model.ckpt", tmp_path / "model.onnx"), SilentDisplay())
