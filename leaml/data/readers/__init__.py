"""Readers of sources, one module a format, which has its name."""
