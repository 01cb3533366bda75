"""What an error of PyTorch or of a user's own layer says, for a message that goes on."""


def reason_of(error: BaseException) -> str:
    """The first line of an error's text, as a sentence; where it has none, the error's kind."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0].rstrip()
    return line if line.endswith((".", "!", "?")) else f"{line}."
