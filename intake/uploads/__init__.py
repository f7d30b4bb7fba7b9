"""Uploads in progress, which take several requests: rows, files, and protocols that resume them."""
