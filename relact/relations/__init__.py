"""From anybody's data to labelled prompts, and the rule that says whether an answer is right."""
