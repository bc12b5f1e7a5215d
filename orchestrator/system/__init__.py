"""Files, locks, subprocesses, signals, downloads, archives, the container engine, the Display protocol."""
