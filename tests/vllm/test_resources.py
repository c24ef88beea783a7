"""What each method sends, within which limit, and whether it is tried again."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_tokenizer import OwnTokenizer
from vllm_kit import NEVER, Both, metadata_of

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import Address, FakeVllmEngine, run_vllm_engine
from smg_proto.vllm import (
    AsyncVLLMGrpcClient,
    Timeout,
    VLLMGrpcClient,
    VLLMGrpcError,
    VLLMGrpcNotFoundError,
    VLLMGrpcTimeoutError,
    VLLMGrpcValidationError,
)

INT32, UINT64 = 2**31 - 1, 2**64 - 1
HELLO = [{"role": "user", "content": "Say hello."}]


def request_of(engine: FakeVllmEngine, rpc: str) -> Any:
    """The latest request of an RPC."""
    return [one.request for one in engine.record.received if one.rpc == rpc][-1]


def refused(both: Both, call: Any, param: str, value: object) -> None:
    with pytest.raises(VLLMGrpcValidationError) as caught:
        both.run(call(**{param: value}))
    assert caught.value.param == param


def test_loads_of_a_rank_and_of_sections(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    both.run(client.loads.retrieve())
    assert request_of(engine, "GetLoads") == pb.GetLoadsRequest()
    for rank in (0, INT32):
        try:
            both.run(client.loads.retrieve(dp_rank=rank, include=("core", "queues")))
        except VLLMGrpcError as error:
            assert rank and error.code == "INVALID_ARGUMENT"
        expected = pb.GetLoadsRequest(dp_rank=rank, include=["core", "queues"])
        assert request_of(engine, "GetLoads") == expected
    for wrong in (-1, INT32 + 1, True, "0"):
        refused(both, client.loads.retrieve, "dp_rank", wrong)
    for sections in ("core", 5, [5]):
        refused(both, client.loads.retrieve, "include", sections)


def test_subscriptions_say_where_they_begin(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    def subscribe(**given: Any) -> common_pb2.SubscribeKvEventsRequest:
        count = len(engine.record.received)
        stream: Any = both.run(client.kv_events.subscribe(**given))
        both.eventually(lambda: len(engine.record.received) > count)
        both.run(stream.close())
        request = request_of(engine, "SubscribeKvEvents")
        assert isinstance(request, common_pb2.SubscribeKvEventsRequest)
        return request

    kind = common_pb2.SubscribeKvEventsRequest
    assert subscribe() == kind(load_records_before_first_batch=True)
    given = {"start_sequence_number": UINT64, "load_records_before_first_batch": False}
    assert subscribe(**given) == kind(start_sequence_number=UINT64)
    for wrong in (-1, UINT64 + 1, True):
        refused(both, client.kv_events.subscribe, "start_sequence_number", wrong)
    refused(both, client.kv_events.subscribe, "load_records_before_first_batch", 1)


class Subscribed(FakeVllmEngine):
    """Accepts a subscription, and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    async def SubscribeKvEvents(
        self, request: common_pb2.SubscribeKvEventsRequest, context: Any
    ) -> AsyncIterator[common_pb2.KvEventBatch]:
        context.add_done_callback(lambda _: self.ended.set())
        await context.send_initial_metadata((("x-rank", "3"),))
        await asyncio.sleep(NEVER)
        yield common_pb2.KvEventBatch()


def test_a_subscription_has_metadata_and_ends_when_it_is_dropped(both: Both) -> None:
    engine = Subscribed()
    with run_vllm_engine(engine) as address:
        events: Any = both.run(both.make(address).kv_events.subscribe())
        assert ("x-rank", "3") in both.run(events.initial_metadata())
        assert not engine.ended.is_set()
        del events
        gc.collect()
        both.eventually(engine.ended.is_set)


def test_health_takes_the_settings_of_a_call(both: Both, client: Any, engine: Any) -> None:
    assert both.run(client.is_healthy(metadata={"x-team": "a"}))
    assert metadata_of(engine, "HealthCheck")["x-team"] == "a"


def test_another_model_is_not_found(both: Both, client: Any) -> None:
    with pytest.raises(VLLMGrpcNotFoundError) as caught:
        both.run(client.models.retrieve("another"))
    assert caught.value.code == "NOT_FOUND"


@pytest.mark.parametrize("wrong", ["", [""], ["a", ""], [5], "\ud800", [], None, 5])
def test_request_ids_are_text(both: Both, client: Any, wrong: object) -> None:
    with pytest.raises(VLLMGrpcValidationError, match="request_ids: "):
        both.run(client.health.abort(wrong))


def test_embeddings_advise_as_completions_do(both: Both, client: Any) -> None:
    with pytest.raises(VLLMGrpcValidationError) as caught:
        both.run(client.embeddings.create(input=[1], dimensions=5))
    assert caught.value.problem == "the server returns whole vectors; cut them yourself"


def test_the_name_of_the_model_is_fetched_beside_the_embedding(both: Both) -> None:
    class Waits(FakeVllmEngine):
        async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
            while not any(one.rpc == "GetModelInfo" for one in self.record.received):
                await asyncio.sleep(0.005)
            return pb.EmbedResponse(embedding=[0.5], prompt_tokens=1)

    with run_vllm_engine(Waits()) as address:
        found = both.run(both.make(address).embeddings.create(input=[1], timeout=20))
        assert found.model == address.servicer.name


@pytest.mark.parametrize("streamed", [False, True])
def test_a_chat_waits_for_the_tokenizer_within_its_own_limit(both: Both, streamed: bool) -> None:
    engine = OwnTokenizer()
    engine.pause = 0.6
    limits = {"call": 0.1, "first_message": 0.1}
    with run_vllm_engine(engine) as address:
        own = "first_message" if streamed else "call"
        client = both.make(address)
        sent: dict[str, Any] = {"messages": HELLO, "max_tokens": 1, "stream": streamed}
        with pytest.raises(VLLMGrpcTimeoutError):
            both.run(client.chat.completions.create(**sent, timeout=Timeout(**{own: 0.1})))
        del limits[own]
        reply = both.run(
            both.make(address).chat.completions.create(**sent, timeout=Timeout(**limits))
        )
        if streamed:
            both.run(reply.close())
        else:
            assert reply.choices[0].finish_reason == "length"


def test_the_first_result_has_the_name_of_the_model(
    both: Both, client: Any, engine: FakeVllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("_sync", "_async"):  # on a machine that is slow
        monkeypatch.setattr(f"smg_proto.vllm.{module}.caller._LABEL_WAIT", 20.0)
    assert both.create(client, prompt=[1], max_tokens=1, decoder=None).model == engine.name


def test_sizes_of_messages_reach_the_channel(both: Both) -> None:
    client = both.make("localhost:1", max_send_message_length=5, max_receive_message_length=6)
    options = dict(client._connection.address.options)
    assert options["grpc.max_send_message_length"] == 5
    assert options["grpc.max_receive_message_length"] == 6


async def test_a_block_closes_its_client(address: Address[FakeVllmEngine]) -> None:
    with VLLMGrpcClient(target=address) as client:
        assert not client.is_closed
    async with AsyncVLLMGrpcClient(target=address) as other:
        assert not other.is_closed
    assert client.is_closed and other.is_closed
