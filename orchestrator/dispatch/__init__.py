"""Carry out a recorded plan: shards, events, predictions.npz, summary.json."""
