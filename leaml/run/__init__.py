"""Run folders: records of steps, finished models, searches."""
