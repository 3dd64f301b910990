"""``python -m relact``, so that ``torchrun -m relact`` and ``accelerate launch -m relact`` start it, too."""

from relact.cli.entry import main

if __name__ == "__main__":
    main()
