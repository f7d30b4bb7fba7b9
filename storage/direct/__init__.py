"""Bytes that clients send to the bucket themselves: signed addresses, what a store enforces, what has come."""
