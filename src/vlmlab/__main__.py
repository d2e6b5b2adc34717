"""`python -m vlmlab`, as torchrun starts it: the same as the command `vlmlab`."""

import sys

from vlmlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
