"""relact: a streaming, memory-mapped activation database for interpretability research.

>>> import relact
>>> study = relact.run(["starter"], model="smollm2", store="study.zarr",
prompts=relact.PromptOptions(shots=5))
>>> relact.open("study.zarr")["scores/mlp.gate"]  # xarray, lazily
>>> relact.top("study.zarr", relation="country_capital")  # pandas

Every verb of the command line is a function here. They are found on first use: ``import relact`` loads
nothing else, and only `capture`, `ablate`, `run` and what goes with them need torch.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
