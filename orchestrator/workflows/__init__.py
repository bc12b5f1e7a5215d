"""What spans stages."""
