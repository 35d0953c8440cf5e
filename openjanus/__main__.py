"""python -m openjanus: the command line."""

from openjanus.cli import main

if __name__ == "__main__":
    main()
