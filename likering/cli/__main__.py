"""``python -m likering.cli``: the command where the script ``likering`` is not on the path."""

from likering.cli.main import main

main()
