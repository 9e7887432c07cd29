"""`python -m crystalmax` is the command `crystalmax`."""

from crystalmax.cli import main

if __name__ == "__main__":
    main()
