"""Bring calls to their handlers: the table of methods and a call, the listeners that serve a table, and their sockets.

Who calls is proven here, too.

Nothing here knows an API or a token; nothing in a handler knows which listener carries it.
"""

import os

# gRPC core writes lines of its own between those of kmsd's log; it reads this once, when it loads.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
