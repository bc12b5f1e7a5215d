"""Small faults put into the code on purpose: does a test fail for each? Run with `python -m tests.mutants`."""
