"""Texts: their encoding, lines, dialect and records."""
