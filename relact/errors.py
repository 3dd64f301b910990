"""One error tree. Every message is one line: where, what (with the value), what to do next.

Grouped by what the catcher would do: fix the input, look at the store, choose another model, give more
memory. The command line prints ``str(error)`` and exits 1; each class also inherits the builtin that callers
expect. Messages name options as the command line has them; a note, which a traceback shows below the message,
says what they are called in Python.
"""

from __future__ import annotations

import re

ARGUMENTS = {  # of options whose names are others in Python
    "--check": "neurons",
    "--format": "form",
    "--no-bos": "special_tokens",
    "--on": "part",
    "--path": "attribution_path",
    "--prompts": "tests",
    "--source": "sources",
    "--steps": "attribution_steps",
}
_COMMAND, _OPTION = re.compile(r"`[^`]*`"), re.compile(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*")


def arguments_of(text: str) -> dict[str, str]:
    """Option of the command line -> argument in Python, of all that a text names outside whole commands.

    >>> arguments_of("--min-ap: give --fdr with it, or run `relact score --check 3`")
    {'--min-ap': 'min_ap', '--fdr': 'fdr'}
    """
    options = _OPTION.findall(_COMMAND.sub("", text))
    return {option: ARGUMENTS.get(option, option[2:].replace("-", "_")) for option in options}


class RelactError(Exception):
    """Base of all problems relact explains.

    Args:
        what: the problem with the offending value, without a final full stop.
        where: file, store, site, argument: whatever names the place.
        fix: what to do next, as an imperative sentence.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        place = f"{where}: " if where is not None else ""
        advice = f". {fix[0].upper()}{fix[1:]}" if fix else ""
        message = " ".join(f"{place}{what}{advice}".split())
        super().__init__(message)
        if named := arguments_of(message):
            said = ", ".join(f"{option} is {argument}=" for option, argument in named.items())
            self.add_note(f"In Python {said}")


class InputError(RelactError, ValueError):
    """An argument, a relation file or a prompt table is not usable as it is."""


class ModelError(RelactError, ValueError):
    """The model is missing, unsupported, or does not have what was asked of it."""


class NumericError(RelactError, ArithmeticError):
    """A captured value cannot be stored faithfully (NaN, infinity, float16 overflow)."""


class StoreError(RelactError, OSError):
    """Not a store, a damaged store, or a place that cannot be written."""


class IdentityError(StoreError):
    """The store was made with another model, tokenizer, prompt set or setting."""


class BusyError(StoreError):
    """Another process is writing this store."""


class BudgetError(RelactError, MemoryError):
    """The work does not fit the given memory budget."""
