"""Verdicts on a run for a CI job."""
