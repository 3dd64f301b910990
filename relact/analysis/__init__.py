"""Questions to a finished store: its best neurons, overlaps, effects and the evidence for them."""
