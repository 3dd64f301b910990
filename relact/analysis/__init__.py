"""Questions to a finished store: its best neurons, overlaps, effects and the evidence for them.

Order of reading: query (a lazy tree of the store, and the questions everybody asks first) -> compare (what
relations or stores have in common) -> effects (what an ablation did) -> evidence (which of that is more than
chance); tables: a table to a file.
"""
