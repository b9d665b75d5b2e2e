"""likering: a like service on a ring of Postgres shards. Who liked which post, and how many."""
