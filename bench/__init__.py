"""Measurements behind the claims in docs: each module runs with `python -m bench.NAME`."""
