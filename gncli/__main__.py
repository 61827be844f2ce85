"""`python -m gncli`, the same as `gn`."""

from gncli.cli import main

if __name__ == "__main__":
    main()
