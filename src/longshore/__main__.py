"""`python -m longshore`: the same as `longshore`."""

from .cli import main

if __name__ == "__main__":
    main()
