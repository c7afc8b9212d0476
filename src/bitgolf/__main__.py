"""`python -m bitgolf` is the command `bitgolf`."""

from bitgolf.cli import main

if __name__ == "__main__":
    main()
