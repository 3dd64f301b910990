"""Activations to scores, scores to neuron sets.

Order of reading: options (every choice with its default), quantities (which statistic is of what) ->
schedulers (independent tasks on threads or a cluster) -> score (one sort per neuron for all relations) ->
selection (the best k), ties (what decides between equals), magnitudes (what nobody chooses) -> masks (the
chosen, stored; what beats chance), controls (random sets), stability (how much of it stays), check (against
scikit-learn); memory and forecast: what it needs, beforehand.
"""
