"""``python -m shard_node.replica``."""

from shard_node.replica.app import main

if __name__ == "__main__":
    main()
