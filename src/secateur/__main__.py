"""``python -m secateur`` is the command line."""

from secateur.cli.main import main

main()
