"""The commands, in the order in which the help lists them, and how their problems are told.

Heavy libraries are imported inside the commands, so that ``relact --help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
from typing import Annotated, NoReturn

import typer

from relact import __version__
from relact.cli import terminal
from relact.cli.ablate import ablate
from relact.cli.capture import capture
from relact.cli.compare import compare
from relact.cli.effects import effects
from relact.cli.exchange import export, import_scores
from relact.cli.generate import generate
from relact.cli.info import info
from relact.cli.judge import judge
from relact.cli.leaderboard import leaderboard
from relact.cli.look import look
from relact.cli.patch import patch
from relact.cli.prompts import prompts
from relact.cli.query import neuron, top
from relact.cli.report import report
from relact.cli.run import run_all
from relact.cli.score import score
from relact.cli.select import select
from relact.cli.sharing import list_stores, pack, pull, push, unpack
from relact.cli.stability import stability
from relact.cli.upgrade import upgrade
from relact.cli.verify import check_store
from relact.errors import RelactError
from relact.progress import LOG

ADDRESSED = 4 << 30  # bytes of address space that reading commands never need; torch reserves more
UNROOMY = (ImportError, OSError, RuntimeError, SystemError)  # how libraries tell that they found no room
MODEL_COMMANDS = ("capture", "ablate", "patch", "look", "generate", "run")  # they take seconds to begin

app = typer.Typer(
    name="relact",
    help="Which neurons of a language model belong to a relation, and what breaks without them.",
    epilog="Every command takes --json for machines. Add --debug to see a traceback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(f"relact {__version__}")
        raise typer.Exit


for name, command in (
    ("prompts", prompts),
    ("capture", capture),
    ("score", score),
    ("select", select),
    ("ablate", ablate),
    ("stability", stability),
    ("patch", patch),
    ("look", look),
    ("generate", generate),
    ("judge", judge),
    ("effects", effects),
    ("compare", compare),
    ("top", top),
    ("neuron", neuron),
    ("info", info),
    ("verify", check_store),
    ("upgrade", upgrade),
    ("leaderboard", leaderboard),
    ("report", report),
    ("run", run_all),
    ("pack", pack),
    ("unpack", unpack),
    ("push", push),
    ("pull", pull),
    ("stores", list_stores),
    ("export", export),
    ("import", import_scores),
):
    app.command(name)(command)


def main() -> None:
    """Entry point: run a command, turn every problem into one line and exit code 1."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    terminal.listen()
    if not debug:  # of a failure, zarr's other reads would follow it in tracebacks
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if arguments[:1] and arguments[0] in MODEL_COMMANDS and "--help" not in arguments:
        LOG.info("loading torch and transformers")
    try:
        app(arguments)
    except RelactError as error:
        if debug:
            raise
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if debug:
            raise
        advice = "Install relact with all it depends on: `pip install relact`"
        _fail(f"this needs {error.name}, which is not installed. {advice}", 1)
    except MemoryError as error:
        if debug:
            raise
        _fail_for_memory(error)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, UNROOMY) and _is_cramped():
            _fail_for_memory(error)
        _fail(f"unexpected problem: {type(error).__name__}: {error}. Add --debug for the traceback", 1)


def _is_cramped() -> bool:
    """Whether this process may address less than the libraries may need."""
    return 0 <= resource.getrlimit(resource.RLIMIT_AS)[0] < ADDRESSED


def _fail_for_memory(error: Exception) -> NoReturn:
    advice = "Give a smaller --memory, or raise the limit (`ulimit -v`)"
    what = str(error).partition("\n")[0] or "nothing more can be allocated"
    terminal.problem(f"not enough memory ({what}). {advice}")
    if _is_cramped():
        os._exit(1)  # what was loaded by half may end the process in its own way when it is unloaded
    sys.exit(1)


def _fail(text: str, code: int) -> None:
    terminal.problem(text)
    sys.exit(code)
