"""Texts and answers: what is damaged, refused or empty, and what counts as the same."""
