"""Questions to a finished store: its best neurons, overlaps, effects and the evidence for them.

Order of reading: query (a lazy tree of the store, and the questions everybody asks first) -> compare (what
relations or stores have in common) -> effects (what an ablation did) -> losses (the same of every prompt, as
arrays) -> intervals, hypotheses (the statistics, on arrays) -> claims (what may be said of evidence) ->
evidence (which effects are more than chance, and than random sets do) -> asked (what was asked), splits
(effects on some of it), doses (effects by the factor that neurons are multiplied by), leaderboard (which
criterion finds neurons that matter), replies (what was said instead); tables: a table to a file.
"""
