"""Commands that remake what the project keeps: README, pages, kept results."""
