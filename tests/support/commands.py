"""The command line, called from tests."""

from trgl.cli import main

TINY = ["--modules", "2", "--filters", "4", "--train-size", "20", "--epochs", "2"]


def trgl(*words: object) -> int:
    """What the command returns to the shell."""
    return main([str(word) for word in words])
