"""S3: its client, requests and errors, and the features of the store in use."""
