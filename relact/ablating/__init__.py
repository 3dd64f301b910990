"""Neuron sets and a model to verdicts: what breaks without them. Needs torch, but for result and judge.

Order of reading: options -> conditions (which neurons are set to what), controls (random sets beside them) ->
overrides (conditions as rows of one batch) -> packs, apart (prompts side by side, or a row each) -> decode
(greedy replies as far as the verdict needs them) -> answers (what was said), perplexity, journal (what an
interrupted run had) -> prepare (model and test prompts), super_units (what breaks the model alone), register
(what was said before) -> result (verdicts, and how all of it is stored) -> ablate -> doses (one ablation per
factor); patch: values put into other relations' prompts; judge: verdicts made again from stored texts;
forecast: what it needs, beforehand.
"""
