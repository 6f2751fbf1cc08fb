"""Generated from protos/ by `make proto`; never edited, but for this file.

protobuf imports its message classes in pure Python, and all that they need, to use none of it where messages are in C,
as they are everywhere: a megabyte, and some milliseconds of every start. They wait until somebody uses them.
"""

import importlib.util
import sys

import google.protobuf.internal

_NAME = "google.protobuf.internal.python_message"


def _later() -> None:
    spec = importlib.util.find_spec(_NAME)
    if _NAME in sys.modules or spec is None or spec.loader is None:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
    google.protobuf.internal.python_message = module


_later()
