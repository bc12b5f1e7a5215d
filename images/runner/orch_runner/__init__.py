"""The program inside every orch environment: read a job, predict its shards, write them for the host."""

__version__ = "0.1.0"
