from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from schemas.messages import Outcome
from schemas.migrate import migrate
from schemas.tables import OUTCOME_CODES, engine_url, metadata
from tests.conftest import CreateDatabase


def test_the_migrations_make_the_tables_and_nothing_else(database_url: str) -> None:
    engine = create_engine(engine_url(database_url))
    with engine.connect() as connection:
        compared = compare_metadata(MigrationContext.configure(connection), metadata)
        partitions = inspect(connection).get_table_names()
    engine.dispose()
    ours = [step for step in compared if "detections_" not in str(step)]
    assert ours == []
    assert "detections_default" in partitions


def test_migrating_at_once_and_again_is_harmless(postgres: CreateDatabase) -> None:
    empty_database_url = postgres(f"empty_{uuid4().hex[:12]}")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(migrate, [empty_database_url] * 3))
    migrate(empty_database_url)
    engine = create_engine(engine_url(empty_database_url))
    with engine.connect() as connection:
        [version] = connection.execute(text("SELECT version_num FROM alembic_version")).scalars()
    engine.dispose()
    assert version == "0004"


def test_every_outcome_has_a_code_of_its_own() -> None:
    assert set(OUTCOME_CODES) == set(Outcome)
    assert sorted(OUTCOME_CODES.values()) == list(range(1, len(Outcome) + 1))
