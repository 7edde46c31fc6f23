"""Neurons: output rows of Linear layers, scored by their importance for question answering, selected and trained alone."""
