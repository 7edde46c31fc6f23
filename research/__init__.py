"""Experiments on the method; research/README.md says how to run each."""
