"""What both deployables need to serve gRPC: server, handlers, channels, status, logs."""
