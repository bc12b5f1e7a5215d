"""How workers are started: runtimes, what they build, and warm workers."""
