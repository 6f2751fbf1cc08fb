"""`kmsctl stats`: how much kmsd does and how fast, once or live."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from kmsctl import figures, options, output
from kmsctl.diagnostics import UsageError
from kmsctl.figures import HISTORY_MAX
from kmsctl.follow import ended, endless, following
from kmsctl.options import Options
from kmsctl.output import OutputFormat
from kmsd.client import ClientError, StatsFrame, connect, default_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.client.admin import AdminClient

INTERVAL_MIN, INTERVAL_MAX = 0.2, 60.0
"""Seconds."""
PATIENCE = 3.0
"""Seconds that a frame may be late before the screen says so."""
LABELS_EVERY = 5.0
"""Seconds between two looks at the keys for the label of one that is not known."""


def stats(
    ctx: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it live: on a screen, or in a pipe as one JSON object a line.")
    ] = False,
    since: Annotated[
        float | None,
        typer.Option(
            "--since",
            metavar="DURATION",
            parser=options.duration,
            help="Time to look back, at most 15m. Default: as far as kmsd remembers.",
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            metavar="DURATION",
            parser=options.duration,
            help="With --watch: time between two looks, 200ms to 60s. Default: 1s.",
        ),
    ] = None,
    tenant: options.TenantName = "",
    output_format: options.OutputStats = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl stats
      kmsctl stats --since 5m
      kmsctl stats -o json
      kmsctl stats -o prometheus > kmsd.prom
      kmsctl stats --watch
      kmsctl stats --watch --interval 500ms | head -n 2

    Show requests, latencies, errors, sessions and the use of keys; with --watch, live. With --tenant, the calls of that
    tenant alone, of which kmsd remembers a minute.

    As prometheus it is all metrics that kmsd answers at /metrics, for the textfile collector of a node exporter.

    On a terminal, --watch shows a screen that q leaves. Quantiles of the tables count since kmsd started.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    history = float(HISTORY_MAX) if since is None else since
    if history > HISTORY_MAX:
        raise UsageError(f"--since must be 1s to {HISTORY_MAX // 60}m, got {history:g}s", "kmsd remembers no more")
    if history < 1:
        raise UsageError(
            f"--since must be 1s to {HISTORY_MAX // 60}m, got {history:g}s", "kmsd remembers whole seconds"
        )
    if interval is not None and not watch:
        raise UsageError("--interval needs --watch", "add --watch, or leave out --interval")
    if interval is not None and not INTERVAL_MIN <= interval <= INTERVAL_MAX:
        raise UsageError(f"--interval must be 200ms to 60s, got {interval:g}s", "leave it out for 1s")
    if watch:
        _watch(opts, 1.0 if interval is None else interval, history, tenant)
    elif opts.form(*options.STATS) is OutputFormat.PROMETHEUS:
        if since is not None or tenant:
            raise UsageError(
                f"{'--tenant' if tenant else '--since'} does not go with --output prometheus",
                "leave it out: metrics count since kmsd started, and have those of every tenant",
            )
        _metrics(opts)
    else:
        _once(opts, history, tenant)


def _metrics(opts: Options) -> None:
    with connect(opts.target, timeout=opts.timeout) as kmsd, kmsd.get_metrics(timeout=opts.timeout) as pieces:
        text = b"".join(pieces)
    output.emit_bytes(text)


def _once(opts: Options, history: float, tenant: str) -> None:
    form = opts.form(*options.STATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        with kmsd.watch_stats(history=history, tenant=tenant, timeout=opts.timeout) as stream:
            frame = _first(iter(stream))
        labels = _labels(kmsd) if form in (OutputFormat.TABLE, OutputFormat.WIDE) else {}
    window = figures.window(frame.seconds)
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({**figures.document(frame), "window": figures.window_document(window)}, form)
    else:
        from kmsctl import statsview

        output.emit(statsview.snapshot(frame, window, labels, datetime.now(UTC), wide=form is OutputFormat.WIDE))


def _watch(opts: Options, interval: float, history: float, tenant: str) -> None:
    if opts.output is OutputFormat.TABLE and not output.has_screen():
        raise UsageError("a live table needs a terminal", "leave out --output to get one JSON object a line")
    form = opts.form(OutputFormat.TABLE, OutputFormat.JSON) if output.has_screen() else opts.form(OutputFormat.JSON)
    with (
        connect(opts.target, timeout=opts.timeout) as kmsd,
        kmsd.watch_stats(interval=interval, history=history, tenant=tenant) as stream,
    ):
        if form is OutputFormat.TABLE:
            _show(kmsd, opts, following(stream), interval, int(history))
        else:
            for frame in endless(stream):
                output.emit_line(figures.document(frame))


def _first(frames: Iterator[StatsFrame]) -> StatsFrame:
    for frame in frames:
        return frame
    raise ended()


def _show(kmsd: AdminClient, opts: Options, frames: Iterator[StatsFrame], interval: float, history: int) -> None:
    """Show the live screen until q is pressed. Raises what ends the stream, when the terminal is given back."""
    from kmsctl import live, statsview

    memory = figures.FrameHistory(history)
    memory.add(_first(frames))
    source = (opts.target or default_target()).removeprefix("unix://")
    with live.take() as (screen, wake):
        reader = _Reader(kmsd, frames, wake)
        reader.start()
        heard = time.monotonic()
        while True:
            for frame in reader.drain():
                memory.add(frame)
                heard = time.monotonic()
            silence = time.monotonic() - heard
            screen.draw(
                statsview.live(
                    memory,
                    reader.labels,
                    source,
                    screen.size(),
                    datetime.now(UTC),
                    silence if silence > interval + PATIENCE else 0.0,
                )
            )
            if "q" in screen.wait(1.0).lower():
                return


class _Reader(threading.Thread):
    """A reader of frames, and of the labels of keys that they name, beside the screen. A daemon: the stream ends it."""

    def __init__(self, kmsd: AdminClient, frames: Iterator[StatsFrame], wake: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.labels: dict[str, str] = {}
        self._kmsd = kmsd
        self._frames = frames
        self._wake = wake
        self._looked = -LABELS_EVERY
        self._got: queue.SimpleQueue[StatsFrame | Exception] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            self._look(())
            for frame in self._frames:
                self._got.put(frame)
                self._wake()
                self._look(each.key_id for each in frame.keys)
            self._got.put(ended())
        except Exception as error:  # noqa: BLE001 - drain raises it on the thread that gives the terminal back
            self._got.put(error)
        self._wake()

    def drain(self) -> Iterator[StatsFrame]:
        """Return the frames that have come. Raises what ended them."""
        while not self._got.empty():
            got = self._got.get()
            if isinstance(got, Exception):
                raise got
            yield got

    def _look(self, key_ids: Iterator[str] | tuple[str, ...]) -> None:
        unknown = any(key_id not in self.labels for key_id in key_ids)
        if time.monotonic() - self._looked < LABELS_EVERY or (self.labels and not unknown):
            return
        self._looked = time.monotonic()
        self.labels = _labels(self._kmsd) or self.labels
        self._wake()


def _labels(kmsd: AdminClient) -> dict[str, str]:
    """Return the labels by key id; none if kmsd does not tell: a hash names a key as well."""
    try:
        return {each.key_id: each.label for each in kmsd.list_keys() if each.can_encrypt or each.can_decrypt}
    except ClientError:
        return {}
