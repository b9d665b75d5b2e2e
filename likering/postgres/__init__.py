"""What everything that talks to a Postgres shares: migrations of its schema, and calls that end at their deadline."""
