"""Which channels are expendable, and cutting them out."""
