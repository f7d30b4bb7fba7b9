"""Uploads whose bytes clients send to the bucket themselves: rows, signed addresses, the look at what has come."""
