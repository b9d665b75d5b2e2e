"""Generated stubs of the operators' API."""
