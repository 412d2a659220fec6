"""A small typed client of the HTTP API, for the command line and for workers."""

from dropt.client.http import Client

__all__ = ["Client"]
