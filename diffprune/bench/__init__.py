"""`python -m diffprune.bench`: what this project's speed is on this machine, beside the plainest way of doing the same."""
