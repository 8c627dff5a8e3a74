"""Measurements of time and memory, one script each."""
