"""Files, locks, JSON lines, free space, subprocesses, signals, downloads, archives, YAML, engine, Display."""
