"""Experiments, and what is made of their results."""
