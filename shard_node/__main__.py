"""``python -m shard_node``."""

from shard_node.app import main

if __name__ == "__main__":
    main()
