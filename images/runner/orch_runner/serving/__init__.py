"""Warm workers: the supervisor, its model processes and the spool folder."""
