"""Writing and reading change nothing: one client's request cannot show up in another's."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_messages import random_message

from frontdoor.golden import CASES, request_of
from frontdoor.replay import Upstream
from frontdoor.tables import REQUEST_TABLES, every_table
from smg_proto import smg_pb2 as smg
from smg_proto import smg_pb2_grpc as rpc
from smg_proto._http.fields import Cursor, Names, Table

SEEDS = st.integers(0, 2**16)


def written(table: Table[Any], message: Any) -> Any:
    return table.write(message, Cursor([]))


def as_text(data: Any) -> str:
    """Only what is plain JSON has one."""
    return json.dumps(data, allow_nan=True)


def containers(data: Any) -> Iterator[Any]:
    if isinstance(data, dict | list):
        yield data
        for inner in data.values() if isinstance(data, dict) else data:
            yield from containers(inner)


@pytest.mark.parametrize("name", REQUEST_TABLES)
@given(first=SEEDS, second=SEEDS)
@settings(max_examples=60, deadline=None)
def test_writing_a_request_has_no_side_effects(name: str, first: int, second: int) -> None:
    table = REQUEST_TABLES[name]
    one, other = random_message(table.message, first), random_message(table.message, second)
    before, kept = as_text(written(table, one)), one.SerializeToString(deterministic=True)
    out, between = written(table, one), written(table, other)
    shared = {id(each) for each in containers(out)} & {id(each) for each in containers(between)}
    assert not shared
    for each in containers(out):  # whatever is done to one request's JSON
        each.clear()
    assert as_text(written(table, one)) == before
    assert one.SerializeToString(deterministic=True) == kept


@pytest.mark.parametrize("name", REQUEST_TABLES)
def test_valid_requests_are_written_the_same_after_each_other(name: str) -> None:
    table = REQUEST_TABLES[name]
    requests = [request_of(case) for case in CASES]
    fitting = [each for each in requests if isinstance(each, table.message)]
    alone = [as_text(written(table, each)) for each in fitting]
    for between in fitting:
        written(table, between)
        assert [as_text(written(table, each)) for each in fitting] == alone


def test_tables_cannot_be_changed() -> None:
    tables = list(every_table())
    assert len(tables) > 80

    def frozen(data: Any) -> bool:
        if isinstance(data, Mapping):
            return type(data) is not dict and all(map(frozen, data.values()))
        return not isinstance(data, list)

    for table in tables:
        for shared in (table.rows, table._always, table._writes):
            assert frozen(shared), table.message
        assert isinstance(table._reads, tuple) and isinstance(table._required, tuple)
    with pytest.raises(TypeError):
        Names({1: "a"}).texts[2] = "b"  # type: ignore[index]


async def test_one_client_s_setting_is_not_in_another_s_request(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.replay("message")
    stub: rpc.MessageServiceAsyncStub = rpc.MessageServiceStub(channel)

    async def sent(**fields: Any) -> Any:
        block = smg.MessageBlock(text="a")
        request = smg.CreateMessageRequest(
            model="m",
            max_tokens=1,
            turns=[smg.Turn(role=smg.ROLE_USER, blocks=[block])],
            tool_choice=smg.ToolChoice(mode=smg.TOOL_CHOICE_MODE_AUTO),
            **fields,
        )
        await stub.CreateMessage(request)
        return upstream.sent[-1].body["tool_choice"]

    plain = {"type": "auto"}
    assert await sent() == plain
    assert await sent(parallel_tool_calls=False) == plain | {"disable_parallel_tool_use": True}
    assert await sent() == plain
    assert await sent(parallel_tool_calls=True) == plain | {"disable_parallel_tool_use": False}
    assert await sent() == plain
