"""`/api/flows`: the flows that ran, or were declared on a worker."""

from __future__ import annotations

from fastapi import APIRouter

from orchestra.errors import FlowNotFound
from orchestra.server.api.shapes import After, FlowSearch, Id, Limit, Page, Selected
from orchestra.server.dependencies import Db
from orchestra.store import queries, search
from orchestra.store.database import Database
from orchestra.store.queries import Flow
from orchestra.store.search import Selection, Test

router = APIRouter(prefix="/flows", tags=["flows"])


@router.get("", response_model=Page[Flow])
def list_flows(db: Db, limit: Limit = 50, after: After = None) -> queries.Page[Flow]:
    """Flows by name, each with the state of its newest run."""
    return queries.list_flows(db, limit=limit, after=after)


@router.post("/filter")
def filter_flows(db: Db, wanted: FlowSearch) -> list[Flow]:
    """Flows that fit, and of which some runs do."""
    return search.find_flows(db, wanted.selection(), sort=wanted.sort.value, limit=wanted.limit, offset=wanted.offset)


@router.post("/count")
def count_flows(db: Db, wanted: Selected) -> int:
    """How many flows fit."""
    return search.count_flows(db, wanted.selection())


@router.get("/name/{flow_name}")
def read_flow_by_name(db: Db, flow_name: Id) -> Flow:
    """The flow of a name."""
    return _one(db, "name", flow_name)


@router.get("/{flow_id}")
def read_flow(db: Db, flow_id: Id) -> Flow:
    """A flow."""
    return _one(db, "id", flow_id)


def _one(db: Database, field: str, value: str) -> Flow:
    wanted = Selection(flows=(Test(field, "any", [value]),))
    found = search.find_flows(db, wanted, sort="NAME_ASC", limit=1)
    if not found:
        raise FlowNotFound(value)
    return found[0]
