"""Figures and verdicts: predictions against annotations, runs against runs, runs against a baseline."""
