"""relact: a streaming, memory-mapped activation database for interpretability research.

>>> import relact
>>> study = relact.run(
...     ["country_capital", "adj_comparative"],
...     store="capitals.zarr",
...     k=100,
...     prompts=relact.PromptOptions(shots=2, per_relation=10, test_size=4),
...     ablate=relact.AblateOptions(seeds=[0]),
... )
>>> study.ablation["accuracy"].dims
('condition', 'relation')
>>> relact.open("capitals.zarr")["scores/mlp.gate"]["average_precision"].dims  # xarray, lazily
('relation', 'layer', 'neuron')
>>> list(relact.top("capitals.zarr", relation="country_capital", n=5).columns)[:3]  # pandas
['site', 'layer', 'neuron']

Every verb of the command line is a function here. They are found on first use: ``import relact`` loads
nothing else, and only `capture`, `ablate`, `run` and what goes with them need torch.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
