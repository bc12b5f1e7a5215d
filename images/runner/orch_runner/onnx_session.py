"""Keep the import path of predictors written before orch_runner.helpers existed."""

from orch_runner.helpers.onnx_session import open_session

__all__ = ["open_session"]
