"""The folder of difficult images is part of orch: `orch test-stack` uses it too."""

from orchestrator.workflows.difficult_images import SIZES, UNREADABLE, photograph, write_difficult_folder

__all__ = ["SIZES", "UNREADABLE", "photograph", "write_difficult_folder"]
