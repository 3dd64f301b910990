"""The commands, in the order in which the help lists them, and how their problems are told.

A command's file is imported when it is asked for, and heavy libraries inside the commands, so that
``relact --help`` and every command begin at once.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from relact import __version__
from relact.cli import terminal
from relact.errors import RelactError
from relact.progress import LOG

LOADED = 600 << 20  # bytes that a process addresses when the libraries of a query are loaded
ADDRESSED = 4 << 30  # bytes of address space that reading commands never need; torch reserves more
UNROOMY = (ImportError, OSError, RuntimeError, SystemError)  # how libraries tell that they found no room
# command -> where its function is, and what the list of commands says of it: how its docstring begins
COMMANDS = {
    "prompts": ("prompts:prompts", "Build labelled prompts from relations."),
    "capture": (
        "capture:capture",
        "Stream a model's activations, and attributions, on prompts into a store; run it again to resume.",
    ),
    "score": ("score:score", "Average precision and more for every neuron and all relations."),
    "select": ("select:select", "Keep a set of neurons for every relation as a mask."),
    "ablate": (
        "ablate:ablate",
        "Switch off each relation's neurons and see which test prompts stay correct.",
    ),
    "stability": (
        "stability:stability",
        "Choose every relation's top k from two random halves of its prompts, and say how much is the same.",
    ),
    "patch": (
        "patch:patch",
        "Set a relation's neurons in other relations' prompts as its own set them: do its answers come up.",
    ),
    "look": (
        "look:look",
        "Where neurons act in one sentence, token by token, and what of the answer is owed to them there.",
    ),
    "generate": (
        "generate:generate",
        "Free text as the model is, without a relation's neurons, and without random ones, side by side.",
    ),
    "judge": (
        "judge:judge",
        "Judge the stored texts of ablations again, and store the verdicts.",
    ),
    "effects": (
        "effects:effects",
        "Mean drops under own, other and random neurons, with intervals over relations and prompts.",
    ),
    "compare": (
        "compare:compare",
        "Neurons that relations share, against chance; that two masks share; or how far two stores agree.",
    ),
    "top": ("query:top", "A relation's best neurons."),
    "neuron": ("query:neuron", "One neuron in every relation, and the prompts that drive it most and least."),
    "info": ("info:info", "What a store holds, or which sites and how many neurons a model has."),
    "verify": (
        "verify:check_store",
        "Check every committed byte; name what is damaged and how to repair it.",
    ),
    "upgrade": (
        "upgrade:upgrade",
        "Put into a store what earlier versions did not write yet; no number of it changes.",
    ),
    "leaderboard": (
        "leaderboard:leaderboard",
        "Compare criteria x k: chosen on the dev prompts, the best of each shown on the test prompts.",
    ),
    "report": ("report:report", "One page with every result of a study, and its figures as files."),
    "run": ("run:run_all", "All of it: prompts, capture, score, select, ablate."),
    "pack": (
        "sharing:pack",
        "Pack a store for others: one file or folder that opens where it lies, with its card.",
    ),
    "unpack": (
        "sharing:unpack",
        "Make a packed store one that can be worked on; every byte is checked first.",
    ),
    "push": ("sharing:push", "Pack a store and publish it on an object store or the hub."),
    "pull": ("sharing:pull", "Fetch a published store and check all of it."),
    "stores": (
        "sharing:list_stores",
        "List published stores: the catalogue of this repository, or another one.",
    ),
    "export": ("exchange:export", "Write scores, neuron lists, ablations or prompts for other tools."),
    "import": (
        "exchange:import_scores",
        "Put the scores of ml-selfcond or lang_neuron into a store of the same model.",
    ),
}
MODEL_COMMANDS = ("capture", "ablate", "patch", "look", "generate", "run")  # they take seconds to begin


class Loaded(Mapping[str, Any]):
    """The commands by their names, each imported when it is first asked for."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            place, _ = COMMANDS[name]
            module, _, function = place.partition(":")
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name, cls=Command)(getattr(import_module(f"relact.cli.{module}"), function))
            self._known[name] = typer.main.get_command(alone)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Command(TyperCommand):
    """A command whose values are converted where they need it."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _sparing(super().get_params(ctx))


def _sparing(parameters: Sequence[Any]) -> list[Any]:
    """The same, that leave values alone which need no conversion: typer converts with pydantic, whose import
    takes half as long as that of zarr.
    """
    for parameter in parameters:
        if hasattr(parameter, "type_descriptor") and "process_value" not in vars(parameter):
            parameter.process_value = partial(_value_of, parameter, parameter.process_value)
    return list(parameters)


def _value_of(parameter: Any, convert: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """A parameter's value, as ``convert`` has it."""
    wanted = parameter.type_descriptor.annotation
    if wanted is int and isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value)
    one = not (parameter.required or parameter.multiple or parameter.nargs == -1)
    if not ((value is None and one) or (wanted in (str, int, float, bool) and type(value) is wanted)):
        return convert(context, value)
    return value if parameter.callback is None else parameter.callback(context, parameter, value)


class Commands(TyperGroup):
    """`relact`: lists its commands without importing them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        found: Any = Loaded()
        self.commands = found

    def get_params(self, ctx: Any) -> list[Any]:
        return _sparing(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        told: dict[str, Any] = {name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}
        TyperGroup(commands=told).format_commands(ctx, formatter)


app = typer.Typer(
    name="relact",
    cls=Commands,
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
        _require_room()
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
        if isinstance(error, UNROOMY) and _addressable() < ADDRESSED:
            _fail_for_memory(error)
        _fail(f"unexpected problem: {type(error).__name__}: {error}. Add --debug for the traceback", 1)


def _require_room() -> None:
    """`MemoryError` where the libraries alone cannot be loaded; some then fail, pyarrow may try for ever."""
    limit = _addressable()
    if limit < LOADED:
        raise MemoryError(f"this process may address {limit >> 20} MiB, libraries alone take {LOADED >> 20}")


def _addressable() -> int:
    """Bytes that this process may address."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def _fail_for_memory(error: Exception) -> NoReturn:
    advice = "Give a smaller --memory, or raise the limit (`ulimit -v`)"
    what = str(error).partition("\n")[0] or "nothing more can be allocated"
    terminal.problem(f"not enough memory ({what}). {advice}")
    if _addressable() < ADDRESSED:
        os._exit(1)  # what was loaded by half may end the process in its own way when it is unloaded
    sys.exit(1)


def _fail(text: str, code: int) -> None:
    terminal.problem(text)
    sys.exit(code)
