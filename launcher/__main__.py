"""`python -m launcher`: the command line without its script."""

from launcher.cli.main import entry

if __name__ == "__main__":
    entry()
