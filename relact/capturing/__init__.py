"""Model and prompts to a stream of committed blocks. Needs torch."""
