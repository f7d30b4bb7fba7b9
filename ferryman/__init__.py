"""The client of a Ferryman service."""
