"""What a shard node does for operators: counts, hot posts, purges, imports, exports; and it sweeps tombstones."""
