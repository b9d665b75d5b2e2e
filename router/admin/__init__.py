"""What operators call: likering.admin.v1, on a port of its own."""
