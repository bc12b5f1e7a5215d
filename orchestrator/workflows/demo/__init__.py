"""What `orch demo` shows: drawn pictures whose truth is known to the pixel."""
