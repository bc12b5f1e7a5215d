"""Runs that several machines share."""
