"""Measured numbers as tables."""
