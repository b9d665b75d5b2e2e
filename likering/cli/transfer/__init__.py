"""Files of likes: reading, writing, going on where it was interrupted."""
