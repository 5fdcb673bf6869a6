"""docs/statuses.md, which is made from the code."""

from schemas.messages import Reason, Status
from services.ingestor.guide import MEANINGS, markdown
from tests.ingestor.conftest import ROOT


def test_the_guide_to_statuses_is_what_make_docs_makes():
    assert (ROOT / "docs" / "statuses.md").read_text() == markdown(), "run `make docs`"


def test_it_explains_every_status_and_every_reason():
    assert set(MEANINGS) == set(Status)
    assert all(f"| `{word}` |" in markdown() for word in (*Status, *Reason))
