"""Which runs a table needs, and what they will take."""
