"""Training: recipes, the one training loop, and the run folder it writes."""
