"""The enrolment tokens of the store. A use is one conditional UPDATE: it holds under any number of kmsd."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Final, cast

from sqlalchemy import CursorResult, delete, func, select, update

from kmsd.errors import Overloaded
from kmsd.store.database import Database
from kmsd.store.records import EnrolmentToken
from kmsd.store.schema import TokenRow

MOST: Final = 10_000
"""Enrolment tokens that are kept at once."""
KEPT_SECONDS: Final = 30 * 86400
"""Seconds for which a token is still listed when it can no longer be used."""


class Tokens:
    """The enrolment tokens. Every method raises Unavailable while the store cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, token: EnrolmentToken) -> None:
        """Keep a new token, and forget those that have ended long ago. Raises Overloaded, AlreadyExists."""
        with self._database.writing() as session:
            session.execute(delete(TokenRow).where(TokenRow.expires < int(time()) - KEPT_SECONDS))
            if (session.scalar(select(func.count()).select_from(TokenRow)) or 0) >= MOST:
                raise Overloaded(
                    f"there are {MOST} enrolment tokens, and no more are kept",
                    f"those that have ended are forgotten after {KEPT_SECONDS // 86400} days",
                )
            session.add(TokenRow(**vars(token)))

    def find(self, token_id: str) -> EnrolmentToken | None:
        """Return the token with this id, whether it can still be used or not."""
        with self._database.reading() as session:
            row = session.get(TokenRow, token_id)
            return _token(row) if row is not None else None

    def all(self) -> Sequence[EnrolmentToken]:
        """Return all tokens, the newest first."""
        with self._database.reading() as session:
            rows = session.scalars(select(TokenRow).order_by(TokenRow.made_at.desc(), TokenRow.id))
            return [_token(row) for row in rows]

    def use(self, token_id: str, now: float) -> bool:
        """Take one use of the token away. Returns whether there was one: it is the caller's alone then."""
        usable = (TokenRow.uses_left > 0) & (TokenRow.revoked_at == 0) & (TokenRow.expires > int(now))
        changed = update(TokenRow).where(TokenRow.id == token_id, usable).values(uses_left=TokenRow.uses_left - 1)
        with self._database.writing() as session:
            return cast("CursorResult[object]", session.execute(changed)).rowcount == 1

    def give_back(self, token_id: str) -> None:
        """Give back a use that led to no certificate."""
        whole = (TokenRow.id == token_id) & (TokenRow.uses_left < TokenRow.uses)
        with self._database.writing() as session:
            session.execute(update(TokenRow).where(whole).values(uses_left=TokenRow.uses_left + 1))

    def revoke(self, token_id: str, now: float) -> EnrolmentToken | None:
        """Have the token not be usable any more. Returns it as it is then, and None if there is no such token."""
        with self._database.writing() as session:
            row = session.get(TokenRow, token_id, with_for_update=True)
            if row is None:
                return None
            row.revoked_at = row.revoked_at or int(now)
            return _token(row)


def _token(row: TokenRow) -> EnrolmentToken:
    return EnrolmentToken(
        row.id, row.salt, row.hash, row.node, row.tenant, row.expires, row.uses, row.uses_left, row.made_by,
        row.made_at, row.revoked_at,
    )  # fmt: skip
