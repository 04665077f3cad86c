"""`python -m launcher`, and the console script `millrace`."""

import os
import sys

from launcher.cli import run


def main() -> int:
    """The exit status."""
    return run(sys.argv[1:], os.environ)


if __name__ == "__main__":
    sys.exit(main())
