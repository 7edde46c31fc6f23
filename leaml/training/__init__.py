"""The training loop, its losses and its batches."""
