"""Pseudo question-answer pairs: prompts, candidates and their filters."""
