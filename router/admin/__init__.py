"""What operators call: likering.admin.v1.RingService, on a port of its own."""
