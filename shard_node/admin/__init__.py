"""What a shard node does for operators: proves and mends counts, names hot posts, erases likes."""
