"""``python -m trgl`` is the command line."""

import sys

from trgl.cli import main

if __name__ == "__main__":
    sys.exit(main())
