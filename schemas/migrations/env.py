"""Alembic's entry: runs the migrations on the connection that `schemas.migrate` hands over."""

from alembic import context

from schemas.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
)
context.run_migrations()
