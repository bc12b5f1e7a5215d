"""What the GPU of a worker can run, and whether it runs it."""
