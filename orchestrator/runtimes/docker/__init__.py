"""The Docker runtime."""
