"""Files of other tools: scores in both directions, masks, ablations and prompts outwards.

Order of reading: formats (export by the name of a format) -> selfcond (score files of ml-selfcond and
lang_neuron, written and read) -> hooks (masks by the names
of other libraries) -> lists (neurons, ablations and concept data sets as JSON, CSV, safetensors
and Parquet, never pickles); rows (values by
prompt, for datasets) -> training (for torch).
"""
