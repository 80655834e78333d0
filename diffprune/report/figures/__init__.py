"""What a figure shows, and drawing it."""
