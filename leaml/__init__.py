"""LEAML: label-efficient adaptation of vision-language models (method after arXiv 2510.03232)."""

__version__ = "0.1.0"
