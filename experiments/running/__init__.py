"""Doing cells, here or on a cluster."""
