"""The command line ``trgl``."""

from trgl.cli.main import main

__all__ = ["main"]
