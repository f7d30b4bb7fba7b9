"""The client of a Ferryman service."""

from ferryman.client import Client, ClientError, File, Link, Problem, TimedOut, Token, Unreachable

__all__ = ["Client", "ClientError", "File", "Link", "Problem", "TimedOut", "Token", "Unreachable"]
__version__ = "0.2.0"
