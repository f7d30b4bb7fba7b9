"""The client of a Ferryman service."""

from ferryman.client import Client, ClientError, File, Problem, TimedOut, Unreachable

__all__ = ["Client", "ClientError", "File", "Problem", "TimedOut", "Unreachable"]
__version__ = "0.1.0"
