"""Run relact from a checkout: ``python cli.py ...`` is the ``relact`` command."""

from relact.cli.app import main

if __name__ == "__main__":
    main()
