"""Neuron sets and a model to verdicts: what breaks without them. Needs torch."""
