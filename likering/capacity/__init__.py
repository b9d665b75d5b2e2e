"""How large a cluster has to be, and how its ring behaves at sizes that nobody has at hand."""
