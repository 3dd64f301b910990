"""Activations to scores, scores to neuron sets."""
