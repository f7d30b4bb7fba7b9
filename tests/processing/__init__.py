"""What is made of files."""
