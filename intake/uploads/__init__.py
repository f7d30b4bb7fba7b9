"""Uploads in progress, which take several requests: rows, files, and the turns of requests."""
