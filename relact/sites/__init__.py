"""Where each neuron site is, per model family: a table of data that hooks and plans read.

>>> from types import SimpleNamespace
>>> from relact.sites import n_layers, places, widths
>>> shape = {"hidden_size": 32, "intermediate_size": 44, "num_attention_heads": 4, "num_hidden_layers": 3}
>>> config = SimpleNamespace(model_type="llama", num_key_value_heads=2, **shape)
>>> places(config)["mlp.hidden"].taps[0]
Tap(module='mlp.down_proj', side='input', fused=(), per='', item=None, again=False)
>>> n_layers(config), widths(config)["mlp.up"], widths(config)["attn.k"]
(3, 44, 16)

Pure data and integers: nothing here imports torch or transformers, and the rows, which many commands do
without, are imported when they are first asked for. `names` of sites; `taps`: the records that
rows are made of; `rules`: what a configuration says; `groups`: what layers are made of; `families`: the rows;
`refused`: what can have none; `table`: what they say of one model.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
