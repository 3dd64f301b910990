"""Whole studies: all steps in one, again, and as published.

Order of reading: presets (a recipe: the options of every step) -> run, repeat; known_prompts (only what the
model answers), other_tests (the same facts asked otherwise), leaderboard (criteria against each other), patch
(do neurons suffice), stability (are they found again).
"""
