"""The composition root: the only place that builds kmsd's objects, wires them together and runs them.

    configured -> tokens -> keyring -> lifecycle, service -> method tables -> two listeners
                     `---- health, stats, audit ----'

`assembly` builds and wires, `process` is the life of the process from its start over signals to its end,
`background_tasks` and `liveness` go on beside the calls, `uses` and `followed` keep what must outlive a restart,
`event_sinks` and `problems` put into words what happens and what is wrong.
"""

from collections.abc import Callable

from kmsd.config import pkcs11_uri
from kmsd.config.sources import Loaded


def serve(loaded: Loaded, reload: Callable[[], Loaded], on_ready: Callable[[], None] | None = None) -> int:
    """Serve from tokens of this machine; see `process.run`."""
    from kmsd.daemon.assembly import TokenParts
    from kmsd.daemon.process import run

    return run(TokenParts, loaded, reload, on_ready)


def serve_proxy(loaded: Loaded, reload: Callable[[], Loaded], on_ready: Callable[[], None] | None = None) -> int:
    """Serve from key managers on other machines; see `process.run`."""
    from kmsd.daemon.process import Build, run
    from kmsd.daemon.proxy import ProxyParts

    build: Build = ProxyParts
    if pkcs11_uri.is_uri(str(loaded.settings.proxy.tls_key or "")):
        from kmsd.daemon.proxy_token import on_token

        build = on_token
    return run(build, loaded, reload, on_ready)
