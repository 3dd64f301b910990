"""From anybody's data to labelled prompts, and the rule that says whether an answer is right.

Order of reading: facts (a fact, a relation, when an answer stands in its own prompt) -> identity (when two
are about the same subject) -> row (what every reader of files yields), opening (compression and encoding),
columns (which one is what), cells (what is in them), shapes (tables in JSON) -> lre, concepts, tabular,
native (the readers, by format) -> importers (which format a file has) -> assembly (rows to relations) ->
sources (a name, a file or a folder to relations) -> split (which facts are held out) -> prompts (relations to
prompts) -> table (prompts as a table, and its files).
options: every choice with its default; verdict: whether an answer is right; ``*.json``: the relations that
come with relact.
"""
