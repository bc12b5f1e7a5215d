"""Warm workers: long-lived workers that keep models loaded and take jobs over a spool folder."""
