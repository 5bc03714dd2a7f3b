"""`python -m copersona`, the same as `copersona`."""

from copersona.commands.cli import main

if __name__ == "__main__":
    main()
