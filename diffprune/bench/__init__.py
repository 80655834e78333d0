"""Speed on this machine, beside a straightforward way of doing the same."""
