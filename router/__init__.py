"""The router: takes likes from callers and sends them, in batches, to the nodes that own them."""
