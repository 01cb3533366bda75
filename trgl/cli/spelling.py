"""Messages of the Python API in the words of the command line."""

from __future__ import annotations

import argparse
import re

_QUOTES = "'\""
_VALUE = r"'[^']*'|\"[^\"]*\"|None|True|False|-?\d+(?:\.\d+)?"
# Arguments of `trgl.split` and `trgl.Trainer` that a command takes in another form
_OTHERWISE = {
    "transport=None": ("method", "vanilla"),
    "encoder='stem'": ("encoder", "trained"),  # `split` means by it that it is none of module 1
    "encoder=None": ("encoder", "stem"),
    "freeze_encoder=True": ("encoder", "random"),
    "freeze_encoder=False": ("encoder", "trained"),
}


def as_typed(message: str, options: argparse.Namespace) -> str:
    """A message whose keywords are options of the command that was given.

    ``name='value'`` becomes ``--name value``, and the bare name of an option that consists of
    several words, ``some_name``, becomes ``--some-name``. What is no option of the command, what
    stands in quotes, calls and paths stays.

    Args:
        message: of an error or a warning.
        options: of the command, or none where it was not yet read.
    """
    # an option made from a field of a recipe has that field's name in the one under which it is
    known = {key.removeprefix("field_") for key in vars(options)}

    def keyword(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if match[0] in _OTHERWISE:
            name, value = _OTHERWISE[match[0]]
            name = name if name in known else f"{name}s"  # the methods of a comparison
        if name not in known:
            return match[0]
        flag = "--" + name.replace("_", "-")
        if value == "None":
            return f"no {flag}"
        if value in ("True", "False"):
            return flag if value == "True" else flag.replace("--", "--no-", 1)
        return f"{flag} {value.strip(_QUOTES)}"

    message = re.sub(rf"(?<![\w.-])(?<!\w\()(\w+)=({_VALUE})(?![\w'\"])", keyword, message)
    words = "|".join(sorted(name for name in known if "_" in name))
    if not words:
        return message
    bare = rf"(?<![\w./'\"`-])({words})(?![\w/'\"`=(-]|\.\w)"
    return re.sub(bare, lambda match: "--" + match[1].replace("_", "-"), message)
