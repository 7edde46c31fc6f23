"""LEAML's steps as Ray programs, one module per step, named by the step's verb; `adapt` runs them all."""
