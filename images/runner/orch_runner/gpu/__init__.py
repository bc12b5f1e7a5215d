"""Check that a stack's framework runs on the GPU, and list the GPU code in its binaries."""
