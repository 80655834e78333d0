"""Where a run's numbers and images go besides its folder."""
