"""`orch view`: a local page over runs, served on loopback; images are listed, read and drawn on demand."""
