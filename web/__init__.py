"""What a client is shown: Files, listings, contents and pages."""
