"""The router: takes likes from callers and sends them, in batches, to the nodes that own them."""

import os

# gRPC's core writes lines of its own to stderr, which are no JSON; what matters in them comes back as errors. It looks
# at this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
