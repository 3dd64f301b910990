"""Rank statistics of many neurons over many relations, on plain arrays.

>>> import numpy as np
>>> labels = Labels.one_vs_rest(["capital", "sport", "capital", "sport"])
>>> block = np.array([[0.9], [0.5], [0.5], [0.1]], np.float32)  # [prompts, neurons]
>>> scores = rank_statistics([block], labels, ["average_precision", "on_p50"])
>>> scores["average_precision"].round(3)  # [relations, neurons]
array([[0.833],
       [0.417]])

Order of reading: labels (who is positive for what) -> statistics (what is computed, by definition) -> columns
(rows of activations to columns) -> sorting (two columns to sorted keys) -> average_precision (walks over the
keys, ties as one threshold) -> walks (sorts and walks once for all relations); totals (sums of rows) ->
moments (means, variances and what is made of them) -> ranks (puts it together) -> significance (how
surprising a score is); device: the same on a GPU; jit: how kernels are compiled and kept.
"""

from __future__ import annotations

from relact.kernels.columns import Beside, NotANumber
from relact.kernels.device import on_device
from relact.kernels.labels import Labels
from relact.kernels.moments import Moments, of_moments
from relact.kernels.ranks import rank_statistics
from relact.kernels.significance import average_precision_null, false_discovery, p_values
from relact.kernels.statistics import STATISTICS, MomentStatistic, Statistic, lape, statistic

__all__ = [
    "STATISTICS",
    "Beside",
    "Labels",
    "MomentStatistic",
    "Moments",
    "NotANumber",
    "Statistic",
    "average_precision_null",
    "false_discovery",
    "lape",
    "of_moments",
    "on_device",
    "p_values",
    "rank_statistics",
    "statistic",
]
