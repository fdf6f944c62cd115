"""``python -m colosim``: the command."""

from colosim.cli import main

main()
