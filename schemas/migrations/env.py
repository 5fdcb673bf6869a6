"""Alembic's entry: runs the migrations on the connection that `schemas.migrate` hands over."""

from alembic import context

from schemas.tables import metadata

with context.begin_transaction():
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        transaction_per_migration=False,
    )
    context.run_migrations()
