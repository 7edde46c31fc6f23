"""Real-size training on one GPU, part by part (run.sh)."""
