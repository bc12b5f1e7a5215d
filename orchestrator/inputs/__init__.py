"""What a user names as images, as an InputSet."""
