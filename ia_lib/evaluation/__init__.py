"""A model and tasks become predictions, scores and measures, each beside what costs nothing."""
