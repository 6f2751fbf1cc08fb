"""gRPC: thin translators between protobuf and the domain, one error mapping, and the listeners.

The APIs are tables of unary methods over bytes; nothing in a handler knows which listener carries it.
"""

import os

# gRPC core writes lines of its own between those of kmsd's log; it reads this once, when it loads.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
