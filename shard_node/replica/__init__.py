"""A process that answers stale reads from a streaming replica of a node's Postgres."""
