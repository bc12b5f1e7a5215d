"""Find and remove what orch left and nothing needs."""
