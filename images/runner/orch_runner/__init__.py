"""The program inside every orch container: reads a job, predicts its shards, writes them down for the host."""

__version__ = "0.1.0"
