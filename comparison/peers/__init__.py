"""What a team would build instead: the same API, in the straightforward ways."""
