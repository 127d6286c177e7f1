"""`python -m sam3_hf` is the command `sam3-hf`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
