"""One run's folder, how it stands, where its numbers come from; and what runs share."""
