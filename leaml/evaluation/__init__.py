"""What predictions are worth: accuracy with intervals, comparisons, priors."""
