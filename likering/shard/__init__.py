"""What the router and the shard nodes say to each other."""
