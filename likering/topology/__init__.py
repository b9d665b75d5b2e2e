"""The cluster's topology kept in a database: read, changed by compare-and-set, watched."""
