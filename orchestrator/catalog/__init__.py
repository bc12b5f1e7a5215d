"""Stacks and models from stack.yaml files, their weights and their upstream code."""
