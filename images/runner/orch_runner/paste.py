"""Keep the import path of predictors written before orch_runner.helpers existed."""

from orch_runner.helpers.paste import paste_masks

__all__ = ["paste_masks"]
