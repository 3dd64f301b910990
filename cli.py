"""Run relact from a checkout: ``python cli.py ...`` is the ``relact`` command."""

from relact.cli.entry import main

if __name__ == "__main__":
    main()
