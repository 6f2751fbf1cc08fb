"""The host process: the only program of kmsd that loads a PKCS#11 module. Started with exec, one for each token.

    PYTHON -P -m kmsd.hsm.host DESCRIPTOR

DESCRIPTOR is one end of a socket pair. Over it come operations by name with plain values (`kmsd.hsm.wire`), the PIN
among them, and the answers go back. A module that crashes, hangs or goes stale takes this process with it and no other:
kmsd starts another one. Nothing in kmsd imports `life` and `workers`; the
other modules name what a host does.
"""
