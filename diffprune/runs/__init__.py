"""One run's folder, its status, its numbers and their provenance; and the cache that runs share."""
