"""Entry point of `python -m bitgolf`, the same as the command `bitgolf`."""

from bitgolf.cli import main

if __name__ == "__main__":
    main()
