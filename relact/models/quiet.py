"""transformers without its chatter: silence while it works, one line of what it raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warnings and progress bars inside the block, and put back what was set."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(". ") if text else type(error).__name__
