"""Functions for predictors; the runner itself does not import them."""
