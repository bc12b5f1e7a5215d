"""The standard predictions file: read, collected, checked, exported."""
