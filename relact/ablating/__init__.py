"""Neuron sets and a model to verdicts: what breaks without them. Needs torch.

Order of reading: options -> conditions (which neurons are set to what) -> overrides (conditions as rows of
one batch) -> decode (two greedy tokens of every prompt) -> answers (what was said and what of it is right),
perplexity, journal (what an interrupted run had) -> prepare (model and test prompts) -> ablate; forecast:
what it needs, beforehand.
"""
