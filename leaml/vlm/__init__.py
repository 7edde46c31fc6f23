"""Vision-language models: loading, saving, naming their layers, and turning conversations into training batches."""
