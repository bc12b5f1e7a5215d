"""What is to be run, and the directory that remembers it."""
