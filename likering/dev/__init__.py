"""The embedded cluster for development and tests: real Postgres, Valkey, shard nodes and a router on one machine."""
