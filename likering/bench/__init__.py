"""An open-loop load generator for a router: ``likering bench`` (needs the extra ``bench``)."""
