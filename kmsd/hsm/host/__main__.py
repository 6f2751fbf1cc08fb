"""Begin as a host process: see `kmsd.hsm.host`."""

from __future__ import annotations

import socket
import sys

from kmsd.hsm.host.life import Life

if __name__ == "__main__":
    Life(socket.socket(fileno=int(sys.argv[1]))).run()
