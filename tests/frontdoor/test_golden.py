"""Each RPC sends the HTTP request that it should, value by value, and returns what came back."""

from typing import Any

import grpc
import pytest

from frontdoor.calls import CONVERSATIONS, REQUESTS, STREAMS
from frontdoor.golden import CASES, observe, request_of
from frontdoor.replay import Upstream
from smg_proto._http.mapping import chat, completion, message, response

NAMES = [case["name"] for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
async def test_an_rpc_equals_its_golden_files(
    case: dict[str, Any], upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    found = await observe(case, upstream, channel)
    assert found["http"] == case["http"]
    assert found["reply"] == case["reply"]


def test_every_rpc_has_a_case() -> None:
    assert {
        case["rpc"] for case in CASES
    } == REQUESTS.keys() | STREAMS.keys() | CONVERSATIONS.keys()


@pytest.mark.parametrize(
    "table",
    [
        completion.REQUEST,
        completion.GENERATE_REQUEST,
        chat.REQUEST,
        message.REQUEST,
        response.REQUEST,
    ],
    ids=lambda table: str(table.message.DESCRIPTOR.name),
)
def test_the_cases_set_every_field_that_a_route_carries(table: Any) -> None:
    """Members of a oneof exclude one another: among all cases each is set once."""
    seen = set[str]()
    for case in CASES:
        request = request_of(case)
        if isinstance(request, table.message):
            seen |= {field.name for field, _ in request.ListFields()}
    assert table.rows.keys() <= seen
