"""Speed on this machine, compared with a straightforward way of doing the same."""
