"""One page and its figures: gather (the store as tables) -> figures (tables to charts) -> page (charts
and text to HTML).
"""
