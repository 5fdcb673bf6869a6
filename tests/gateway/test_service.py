"""Health, metrics and documentation."""

from dataclasses import replace

import httpx
from prometheus_client.parser import text_string_to_metric_families

from services.gateway.access import Access
from services.gateway.app import create_app
from services.gateway.database import Database
from services.gateway.observed import Observed


async def test_ready_once_the_topics_are_read_and_the_database_has_answered(parts):
    database, observed = Database("postgresql://nobody@127.0.0.1:1/none"), Observed()
    app = create_app(replace(parts, database=database, observed=observed), Access(None, []))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/health/ready")
        assert answer.status_code == 503
        unavailable = {"status": "unavailable", "database": False, "topics": False}
        assert answer.json() == unavailable
        assert (await client.get("/health/live")).json() == {"status": "ok"}
        observed.note_ready()
        assert (await client.get("/health/ready")).status_code == 503
        database.answered = True
        assert (await client.get("/health/ready")).status_code == 200
    database.close()


async def test_requests_are_counted_by_route_and_never_by_stream(client):
    await client.get("/streams/01KAPZ0000000000000000000A")
    await client.get("/nothing/at/all")
    metrics = (await client.get("/metrics")).text
    [family] = [
        found
        for found in text_string_to_metric_families(metrics)
        if found.name == "sightlog_gateway_requests"
    ]
    labels = [sample.labels for sample in family.samples]
    assert {"method": "GET", "route": "/streams/{id}", "status": "404"} in labels
    assert {"method": "GET", "route": "none", "status": "404"} in labels
    assert "01KAPZ" not in metrics


async def test_the_documentation_names_every_route_and_nothing_from_elsewhere(client):
    described = (await client.get("/openapi.json")).json()
    page = (await client.get("/docs")).text
    for said in ("rtspUrl", "loop=1", "minConfidence", "boundingBox", "WebSocket /ws"):
        assert said in page
    assert all(path in page for path in described["paths"])
    assert "http" not in page
