"""Many copies of the tiny model trained and asked at once, each with its own weights: a table of experiments in minutes on one
GPU, where the pipeline takes days on two cores. Batches, losses, filters and prompts are the pipeline's own."""
