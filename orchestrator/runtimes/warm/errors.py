"""Warm workers: long-lived workers that keep models loaded and are handed jobs over a spool folder."""

from __future__ import annotations

from orchestrator.errors import MachineError, UsageError


class WarmUnfit(MachineError):
    """No warm worker that fits is up."""


class OutsideData(UsageError):
    """The images are where no warm worker sees them, and too large to be copied into the spool."""
