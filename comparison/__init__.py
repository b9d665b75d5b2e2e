"""likering beside what a team would build instead, and beside the limits of its parts: ``scripts/compare``.

Starts everything that it measures, in one run on one machine, so that every figure is a ratio of two measurements made
seconds apart. Not part of the installed package: it imports the shard node's own statements, as nothing else may.
"""
