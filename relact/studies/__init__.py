"""Whole studies: all steps in one, again, and as published."""
