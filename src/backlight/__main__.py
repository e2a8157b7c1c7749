"""`python -m backlight`."""

from .engine.cli import main

main()
