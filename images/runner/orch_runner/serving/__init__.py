"""Warm workers: a supervisor, its model processes and the spool folder; orch_runner.serve starts them."""
