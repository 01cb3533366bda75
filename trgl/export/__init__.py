"""A trained network as an ordinary model in a file."""

from trgl.export.write import FORMATS, CheckError, Exported, export

__all__ = ["FORMATS", "CheckError", "Exported", "export"]
