"""Entry point of the program `bitgolf` and of `python -m bitgolf`."""

from __future__ import annotations

import sys


def main() -> None:
    """Import and run the command line. An interrupt during the import ends the program like any other."""
    try:
        from bitgolf.cli import main as run
    except KeyboardInterrupt:
        print("bitgolf: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
