"""The shard node: owns slots in its Postgres, commits likes in groups, keeps a count cache in Valkey."""
