"""relact: a streaming, memory-mapped activation database for interpretability research.

    import relact
    store = relact.run(["starter"], model="smollm2", store="study.zarr", shots=5, k=400)
    relact.open("study.zarr")["scores/mlp.gate"]           # xarray, lazily
    relact.top("study.zarr", relation="country_capital")   # pandas

Every verb of the command line is a function here. They are found on first use: ``import relact`` loads nothing else, and
only `capture`, `ablate` and `run` need torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relact.compare import agreement, moved, overlap
    from relact.effects import cumulativity, effects
    from relact.evidence import evidence, influences
    from relact.masks import combine, select
    from relact.pipeline import run
    from relact.query import activations, extremes, neuron, top
    from relact.query import tree as open
    from relact.store.local import Store
    from relact.tables import write as write_table

__version__ = "0.1.0"

__all__ = [
    "Store", "ablate", "activations", "agreement", "capture", "combine", "cumulativity", "effects", "evidence", "extremes",
    "influences", "moved", "neuron", "open", "overlap", "prompts", "report", "run", "score", "select", "top", "write_table",
]  # fmt: skip

_FUNCTIONS = {
    "Store": "relact.store.local:Store",
    "activations": "relact.query:activations",
    "agreement": "relact.compare:agreement",
    "combine": "relact.masks:combine",
    "cumulativity": "relact.effects:cumulativity",
    "extremes": "relact.query:extremes",
    "influences": "relact.evidence:influences",
    "moved": "relact.compare:moved",
    "neuron": "relact.query:neuron",
    "open": "relact.query:tree",
    "overlap": "relact.compare:overlap",
    "run": "relact.pipeline:run",
    "select": "relact.masks:select",
    "top": "relact.query:top",
    "write_table": "relact.tables:write",
}
_MODULES = {
    "ablate": "ablate",
    "capture": "capture",
    "effects": "effects",
    "evidence": "evidence",
    "prompts": "build",
    "report": "report",
    "score": "score",
}  # verb module -> its function


_PLACES = {"prompts": "relations.prompts"}  # until the face is rebuilt


class _Verb(ModuleType):
    """A module that is also its verb: ``relact.capture`` is the module, ``relact.capture(...)`` captures."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, _MODULES[self.__name__.rpartition(".")[2]])(*args, **options)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _MODULES and isinstance(value, ModuleType):  # the import system attaches a submodule
            value.__class__ = _Verb
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name in _MODULES:
            return import_module(f"relact.{_PLACES.get(name, name)}")
        if name in _FUNCTIONS:
            module, _, attribute = _FUNCTIONS[name].partition(":")
            return getattr(import_module(module), attribute)
        raise AttributeError(f"module 'relact' has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
