"""The requests of the store: those for certificates that an operator decides on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import time
from typing import Final, cast

from sqlalchemy import CursorResult, delete, func, select, update

from kmsd.errors import Overloaded
from kmsd.store.database import Database
from kmsd.store.records import EnrolmentRequest, RequestState
from kmsd.store.schema import RequestRow

MOST: Final = 1000
"""Requests that are kept at once: anybody can make one."""
MOST_OF_ONE: Final = 20
"""Requests of one address among them."""


class Requests:
    """The requests that an operator decides on. Every method raises Unavailable while the store cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, request: EnrolmentRequest) -> EnrolmentRequest:
        """Keep the request unless there is one with its public key; return the one that is kept. Raises Overloaded."""
        with self._database.writing() as session:
            session.execute(delete(RequestRow).where(RequestRow.expires <= int(time())))
            same_key = RequestRow.public_key_sha256 == request.public_key_sha256
            row = session.scalar(select(RequestRow).where(same_key))
            if row is not None:
                return _request(row)
            count = select(func.count()).select_from(RequestRow)
            of_one = session.scalar(count.where(RequestRow.address == request.address)) or 0
            if of_one >= MOST_OF_ONE or (session.scalar(count) or 0) >= MOST:
                raise Overloaded(
                    "too many requests wait for an operator",
                    "try again later; an operator decides on them: kmsctl enrol pending",
                )
            session.add(RequestRow(**vars(request)))
        return request

    def find(self, request_id: str) -> EnrolmentRequest | None:
        """Return the request with this id, unless its time is over."""
        with self._database.reading() as session:
            row = session.get(RequestRow, request_id)
            return _request(row) if row is not None and row.expires > int(time()) else None

    def all(self) -> Sequence[EnrolmentRequest]:
        """Return the requests whose time is not over, the oldest first."""
        with self._database.reading() as session:
            live = select(RequestRow).where(RequestRow.expires > int(time()))
            return [_request(row) for row in session.scalars(live.order_by(RequestRow.asked_at, RequestRow.id))]

    def decide(self, decided: EnrolmentRequest) -> bool:
        """Keep what was decided on a request. Returns whether it still waited for that."""
        waits = (RequestRow.id == decided.id) & (RequestRow.state == RequestState.WAITING)
        values = {
            "state": decided.state, "node": decided.node, "tenant": decided.tenant, "reason": decided.reason,
            "decided_by": decided.decided_by, "decided_at": decided.decided_at,
        }  # fmt: skip
        with self._database.writing() as session:
            return _changed(session.execute(update(RequestRow).where(waits).values(**values)))

    def take(self, request_id: str) -> bool:
        """Remove an approved request. Returns whether it was there: its certificate is the caller's to issue then."""
        approved = (RequestRow.id == request_id) & (RequestRow.state == RequestState.APPROVED)
        with self._database.writing() as session:
            return _changed(session.execute(delete(RequestRow).where(approved)))

    def give_back(self, request: EnrolmentRequest) -> None:
        """Keep an approved request again whose certificate could not be issued."""
        with self._database.writing() as session:
            session.add(RequestRow(**vars(replace(request, state=RequestState.APPROVED))))


def _changed(result: object) -> bool:
    return cast("CursorResult[object]", result).rowcount == 1


def _request(row: RequestRow) -> EnrolmentRequest:
    return EnrolmentRequest(
        row.id, row.public_key_sha256, row.csr, row.subject, row.label, row.address, row.asked_at, row.expires,
        RequestState(row.state), row.node, row.tenant, row.decided_by, row.decided_at, row.reason,
    )  # fmt: skip
