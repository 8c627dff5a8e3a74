"""Volumes: where they come from, where they lie, and a synthetic one for everybody."""
