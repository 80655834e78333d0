"""Scoring channels, choosing those to remove, and removing them."""
