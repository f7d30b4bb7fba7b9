"""S3's own side: its client, its requests and errors, and what the store at hand can do."""
