"""Ask kmsd over HTTP as a probe or a scraper does, and read the metrics."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.daemons import wait_for


class Answer:
    """An answer over HTTP."""

    def __init__(self, place: int | Path, path: str, method: str = "GET", **headers: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", place if isinstance(place, int) else 0, timeout=10)
        if isinstance(place, Path):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(10)
            connection.sock.connect(str(place))
        connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        response = connection.getresponse()
        self.status, self.headers, self.text = response.status, response.headers, response.read().decode()
        connection.close()


def metrics(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample, by its name and the values of its labels in the order of their names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def fresh(port: int) -> str:
    """The metrics, with nothing in them from before: for a while all who ask are given the same."""
    before = Answer(port, "/metrics").text
    text: str = wait_for(lambda: (now := Answer(port, "/metrics").text) != before and now)
    return text


def told(port: int) -> dict[tuple[str, tuple[str, ...]], float]:
    return metrics(fresh(port))
