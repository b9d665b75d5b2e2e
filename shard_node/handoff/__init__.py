"""Moving slots between nodes: the target pulls, the source freezes; docs/handoff.md tells the whole story."""
