"""`python -m longshore.cli`: the same as `longshore`."""

from . import main

main()
