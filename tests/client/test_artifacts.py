"""A client makes, reads, changes and deletes artifacts and variables."""

from __future__ import annotations

import asyncio

import pytest

from orchestra import flow, get_client
from orchestra.artifacts import create_markdown_artifact
from orchestra.client.orchestration import SyncOrchestraClient
from orchestra.client.schemas.actions import ArtifactCreate, ArtifactUpdate, VariableCreate, VariableUpdate
from orchestra.client.schemas.filters import ArtifactCollectionFilter, ArtifactFilter, FlowRunFilter
from orchestra.client.schemas.sorting import ArtifactCollectionSort, ArtifactSort
from orchestra.errors import ArtifactNotFound, InvalidArtifact, VariableExists, VariableNotFound
from tests.client import flows
from tests.drive import Driver


@pytest.fixture
def client() -> SyncOrchestraClient:
    """A client on a database of its own."""
    return get_client(sync_client=True)


@flow
def reporting() -> None:
    """Shows two things."""
    create_markdown_artifact("of a run", key="report")
    create_markdown_artifact("alone")


def test_artifacts_are_found_by_what_they_are(client: SyncOrchestraClient) -> None:
    """And by the runs that made them."""
    reporting()
    newest = client.create_artifact(ArtifactCreate(key="report", type="note", data={"a": 1}, metadata_={"by": "hand"}))

    found = client.read_artifacts(artifact_filter=ArtifactFilter.model_validate({"key": {"any_": ["report"]}}))
    assert [each.data for each in found] == [{"a": 1}, "of a run"]
    assert (newest.metadata_, client.read_artifact(newest.id)) == ({"by": "hand"}, newest)
    without = ArtifactFilter.model_validate({"key": {"exists_": False}})
    assert [each.data for each in client.read_artifacts(artifact_filter=without)] == ["alone"]
    notes = ArtifactFilter.model_validate({"type": {"not_any_": ["markdown"]}})
    assert client.read_artifacts(artifact_filter=notes, sort=ArtifactSort.KEY_ASC) == [newest]
    (run,) = client.read_flow_runs()
    of_run = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
    assert [each.data for each in client.read_artifacts(flow_run_filter=of_run)] == ["alone", "of a run"]
    assert client.read_artifacts(limit=1, offset=3) == []


def test_the_newest_of_each_key_is_found(client: SyncOrchestraClient) -> None:
    """One a key."""
    made = [client.create_artifact(ArtifactCreate(key=key, type=key, data=1)) for key in ("a", "b", "a")]

    latest = client.read_latest_artifacts(sort=ArtifactCollectionSort.KEY_ASC)
    assert [(each.key, each.latest_id) for each in latest] == [("a", made[2].id), ("b", made[1].id)]
    only = ArtifactCollectionFilter.model_validate({"type": {"any_": ["b"]}})
    assert [each.id for each in client.read_latest_artifacts(artifact_filter=only)] == [made[1].id]


def test_an_artifact_is_changed_in_place_and_deleted(client: SyncOrchestraClient) -> None:
    """What is not given stays."""
    made = client.create_artifact(ArtifactCreate(key="a", type="progress", data=1.0, description="rows"))

    client.update_artifact(made.id, ArtifactUpdate(data=2.0, metadata_={"a": "b"}))

    found = client.read_artifact(made.id)
    assert (found.data, found.description, found.metadata_) == (2.0, "rows", {"a": "b"})
    client.delete_artifact(made.id)
    assert client.read_latest_artifacts() == []
    with pytest.raises(ArtifactNotFound):
        client.delete_artifact(made.id)
    with pytest.raises(InvalidArtifact):
        client.create_artifact(ArtifactCreate(key="No Key"))


def test_variables_are_set_changed_and_deleted(client: SyncOrchestraClient) -> None:
    """By name."""
    made = client.create_variable(VariableCreate(name="a", value={"b": 1}, tags=["x"]))
    assert client.read_variable_by_name("a") == made
    with pytest.raises(VariableExists):
        client.create_variable(VariableCreate(name="a", value=2))

    client.update_variable(VariableUpdate(name="a", value=2))

    assert [(each.name, each.value, each.tags) for each in client.read_variables()] == [("a", 2, ["x"])]
    client.delete_variable_by_name("a")
    assert client.read_variable_by_name("a") is None
    for act in (client.delete_variable_by_name, lambda name: client.update_variable(VariableUpdate(name=name))):
        with pytest.raises(VariableNotFound):
            act("a")


def test_coroutines_do_the_same() -> None:
    """Every method is awaited there."""

    async def use() -> list[object]:
        async with get_client() as client:
            made = await client.create_artifact(ArtifactCreate(key="a", data="x"))
            await client.create_variable(VariableCreate(name="a", value=1))
            found = await client.read_variable_by_name("a")
            return [(await client.read_artifact(made.id)).data, found and found.value]

    assert asyncio.run(use()) == ["x", 1]


def test_what_a_flow_makes_by_a_client_is_there_once(driver: Driver) -> None:
    """Its replay makes nothing."""
    made, seen = driver.run(flows.making, number=4).result()

    with get_client(sync_client=True) as client:
        assert [each.id for each in client.read_artifacts()] == [made]
    assert seen == 4
