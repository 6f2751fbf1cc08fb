"""Run what changes a database, for Alembic, in the transaction that `kmsd.store.database` has begun under its lock."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
