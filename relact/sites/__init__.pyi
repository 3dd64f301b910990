from .families import FAMILIES
from .names import ALIASES, SITES, expand
from .refused import REFUSED
from .table import (
    KNOWN,
    Place,
    aliases_of,
    count,
    family,
    layers_of,
    n_layers,
    part,
    places,
    resolve,
    text_config,
    widths,
)
from .taps import EXPERTS, INPUT, OUTPUT, Family, Group, Part, Tap

__all__ = [
    "ALIASES",
    "EXPERTS",
    "FAMILIES",
    "INPUT",
    "KNOWN",
    "OUTPUT",
    "REFUSED",
    "SITES",
    "Family",
    "Group",
    "Part",
    "Place",
    "Tap",
    "aliases_of",
    "count",
    "expand",
    "family",
    "layers_of",
    "n_layers",
    "part",
    "places",
    "resolve",
    "text_config",
    "widths",
]
