"""Which slot a key has and which node a slot belongs on: pure functions, no I/O."""
