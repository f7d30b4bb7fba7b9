"""What happens to Files, and who is told."""
