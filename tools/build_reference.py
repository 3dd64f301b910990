"""Write docs/reference.md from the commands' own help and the docstrings of the public functions.

    python tools/build_reference.py

A test compares the page with what this prints, so it is rebuilt whenever an option or a docstring changes.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import typer

import relact
from relact.cli.app import app

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"
INTRO = """# Reference

Made by `python tools/build_reference.py` from the commands' help and the functions' docstrings.
"""


def build() -> str:
    """The page as text."""
    group: Any = typer.main.get_command(app)
    commands = [command(name, parsed) for name, parsed in sorted(group.commands.items())]
    functions = [function(name) for name in sorted(set(relact.__all__) - {"errors", "kernels"})]
    parts = [
        INTRO,
        "## Commands",
        group.epilog,
        *commands,
        "## Python",
        relact.__doc__.split("\n\n")[2].strip(),
        *functions,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def command(name: str, parsed: Any) -> str:
    """Usage, purpose and options of one command."""
    arguments = [option for option in parsed.params if not option.opts[0].startswith("-")]
    options = [option for option in parsed.params if option.opts[0].startswith("-") and option.name != "help"]
    usage = " ".join(
        [
            "relact",
            name,
            *(_placeholder(argument) for argument in arguments),
            *(["[OPTIONS]"] if options else []),
        ]
    )
    rows = [f"| `{_placeholder(argument)}` | {_cell(argument.help)} | |" for argument in arguments]
    rows += [f"| {_flags(option)} | {_cell(option.help)} | {_default(option)} |" for option in options]
    table = "\n".join(["| argument or option | meaning | default |", "|---|---|---|", *rows])
    return f"### relact {name}\n\n{inspect.cleandoc(parsed.help)}\n\n```\n{usage}\n```\n\n{table}"


def function(name: str) -> str:
    """Signature and docstring of one public name."""
    target = getattr(relact, name)
    text = inspect.getdoc(target) or ""
    kind = "class " if inspect.isclass(target) else ""
    made_by_hand = not inspect.isclass(target) or name.endswith("Options")
    shown = f"{kind}relact.{name}{_signature(target) if made_by_hand else ''}"
    return f"### relact.{name}\n\n```python\n{shown}\n```\n\n```text\n{text}\n```"


def _signature(target: Any) -> str:
    """As in the source: annotations without quotes, functions by name, a line each where one is too short."""
    plain = inspect.signature(target)
    parameters = list(plain.parameters.values())
    texts = [re.sub(r"<function (\w+) at 0x\w+>", r"\1", str(parameter)) for parameter in parameters]
    texts = [re.sub(r"^([*\w]+): '([^']*)'", r"\1: \2", text) for text in texts]
    kinds = [parameter.kind for parameter in parameters]
    star = kinds.index(inspect.Parameter.KEYWORD_ONLY) if inspect.Parameter.KEYWORD_ONLY in kinds else None
    if star is not None:
        texts.insert(star, "*")
    told = plain.return_annotation not in (plain.empty, None)
    result = f" -> {plain.return_annotation}" if told else ""
    short = f"({', '.join(texts)}){result}"
    lines = "".join(f"    {text},\n" for text in texts)
    return short if len(short) <= 100 else f"(\n{lines}){result}"


def _placeholder(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()).strip("[]")
    return name if argument.required else f"[{name}]"


def _flags(option: Any) -> str:
    return " ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default
    return (
        "" if value is None or value is False or callable(value) else f"`{'on' if value is True else value}`"
    )


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
    print(f"written: {PAGE}")
