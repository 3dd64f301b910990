"""Where each neuron site is, per model family: a table of data that hooks and plans read.

>>> from types import SimpleNamespace
>>> shape = {"hidden_size": 32, "intermediate_size": 44, "num_attention_heads": 4, "num_hidden_layers": 3}
>>> config = SimpleNamespace(model_type="llama", num_key_value_heads=2, **shape)
>>> places(config)["mlp.hidden"].taps[0]
Tap(module='mlp.down_proj', side='input', fused=(), per='', item=None, again=False)
>>> n_layers(config), widths(config)["mlp.up"], widths(config)["attn.k"]
(3, 44, 16)

Pure data and integers: nothing here imports torch or transformers. `names` of sites; `taps`: the records that
rows are made of; `rules`: what a configuration says; `groups`: what layers are made of; `families`: the rows;
`table`: what they say of one model.
"""

from relact.sites.families import FAMILIES
from relact.sites.names import ALIASES, SITES, expand
from relact.sites.table import (
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
from relact.sites.taps import EXPERTS, INPUT, OUTPUT, Family, Group, Part, Tap

__all__ = [
    "ALIASES",
    "EXPERTS",
    "FAMILIES",
    "INPUT",
    "KNOWN",
    "OUTPUT",
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
