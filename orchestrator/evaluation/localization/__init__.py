"""Probability masks against true masks."""
