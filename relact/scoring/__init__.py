"""Activations to scores, scores to neuron sets.

Order of reading: options (every choice with its default) -> schedulers (independent tasks on threads or a
cluster) -> score (one sort per neuron for all relations) -> masks (top k, and what beats chance), stability
(how much of it stays), check (against scikit-learn); memory and forecast: what it needs, beforehand.
"""
