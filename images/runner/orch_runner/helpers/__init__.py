"""Helpers that predictors may import."""
