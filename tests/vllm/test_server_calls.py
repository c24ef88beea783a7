"""Everything besides completions: what the server tells, and administration."""

from typing import Any

import pytest
from vllm_kit import Both

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import Address, FakeVllmEngine, run_vllm_engine
from smg_proto.vllm import (
    VLLMGrpcClosedError,
    VLLMGrpcInternalError,
    VLLMGrpcNotFoundError,
    VLLMGrpcOutOfRangeError,
    VLLMGrpcUnimplementedError,
    VLLMGrpcValidationError,
)
from smg_proto.vllm._types import Result


def test_the_model_describes_itself(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    info = both.run(client.models.retrieve())
    assert info.id == info.served_model_name == engine.name
    assert info.is_generation and info.max_context_length > 0 and info.vocab_size > 0
    assert info.raw is not None and info.raw.model_path == info.model_path
    models = both.run(client.models.list())
    assert [model.id for model in models.data] == [engine.name]
    assert models.model_path == info.model_path  # as callers of the known client expect
    assert [model.id for model in models] == [engine.name] and len(models) == 1  # as OpenAI's
    assert both.each(models) == models.data
    assert models.object == "list" and models.data[0].object == "model"
    assert models.model_dump()["data"][0]["served_model_name"] == engine.name
    assert both.run(client.models.retrieve(engine.name)).id == engine.name
    with pytest.raises(VLLMGrpcNotFoundError, match=r"see models\.list\(\)"):
        both.run(client.models.retrieve("another"))


def test_a_model_whose_json_is_none_has_no_defaults(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(FakeVllmEngine):
        result = ""

        async def GetModelInfo(self, request: Any, context: Any) -> pb.GetModelInfoResponse:
            return pb.GetModelInfoResponse(model_path="m", default_sampling_params_json=self.result)

    with run_vllm_engine(Odd()) as address:
        client = both.make(address)
        for result in ("", "{", "[1]", '{"a":' * 100_000 + "1" + "}" * 100_000):
            monkeypatch.setattr(Odd, "result", result)
            assert both.run(client.models.retrieve()).default_sampling_params == {}


def test_health(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    assert both.run(client.health.check()).healthy
    assert both.run(client.is_healthy()) is True
    engine.healthy = False
    check = both.run(client.health.check())
    assert not check.healthy and check.message
    assert both.run(client.is_healthy()) is False
    assert both.run(client.wait_for_ready(timeout=0.3, poll_interval=0.05)) is False
    engine.healthy = True
    assert both.run(client.wait_for_ready(timeout=30, poll_interval=0.05)) is True
    assert both.run(client.wait_for_ready(timeout=0.9)) is True
    assert both.run(client.wait_for_ready(timeout=0)) is False


def test_a_server_that_is_not_there_is_not_healthy(both: Both) -> None:
    client = both.make("127.0.0.1:1")
    assert both.run(client.is_healthy(timeout=1.0, max_retries=0)) is False
    assert both.run(client.wait_for_ready(timeout=0.3, poll_interval=0.1)) is False


def test_requests_are_aborted_by_id(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    engine.token_delay = 0.02
    aborted = engine.record.counters.aborted
    stream: Any = both.stream(client, prompt="x", max_tokens=2000)
    both.next(stream)
    both.run(client.health.abort(stream.request_id))
    final = both.run(stream.get_final_completion())
    assert final.choices[0].finish_reason == "abort"
    assert engine.record.counters.aborted == aborted + 1
    both.run(client.health.abort(["nobody", "knows"]))
    for wrong in ([], "", [""], [1]):
        with pytest.raises(VLLMGrpcValidationError, match="request_ids"):
            both.run(client.health.abort(wrong))


def test_each_input_of_embeddings_has_its_own_request(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    for inputs in ([5], [[5], [6]]):
        both.run(client.embeddings.create(input=inputs, request_id="mine", model="m"))
    requests = [one.request for one in engine.record.received]
    names = [one.request_id for one in requests if isinstance(one, pb.EmbedRequest)]
    assert (names[0], sorted(names[1:])) == ("mine", ["mine-0", "mine-1"])


def test_embeddings_of_one_and_of_several_inputs(both: Both, client: Any) -> None:
    one = both.run(client.embeddings.create(input=[5, 6, 7]))
    assert one.usage.prompt_tokens == 3 and one.model and len(one.data[0].embedding) > 0
    several = both.run(client.embeddings.create(input=[[5, 6, 7], [8]]))
    assert [e.index for e in several.data] == [0, 1]
    assert several.data[0].embedding == one.data[0].embedding != several.data[1].embedding
    mixed: Any = [[5, 6, 7], "the quick brown"]
    both_kinds = both.run(client.embeddings.create(input=mixed))
    assert both_kinds.data[0].embedding == one.data[0].embedding != both_kinds.data[1].embedding
    assert several.usage.total_tokens == 4 and len(several.raw) == 2
    with pytest.raises(VLLMGrpcValidationError, match="input: is empty"):
        both.run(client.embeddings.create(input=[]))
    with pytest.raises(VLLMGrpcValidationError, match="request_id"):
        both.run(client.embeddings.create(input=[1], request_id=""))
    labelled = both.run(
        client.embeddings.create(model="mine", input=[1], user="u", encoding_format="float")
    )
    assert labelled.model == "mine"
    for name, value in (
        ("encoding_format", "base64"), ("dimensions", 3), ("model", ""), ("temperature", 1),
        ("timeout", "1"),
    ):  # fmt: skip
        with pytest.raises(VLLMGrpcValidationError) as caught:
            both.run(client.embeddings.create(input=[1], **{name: value}))
        assert caught.value.param == name


def test_loads(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    engine.token_delay = 0.02
    stream: Any = both.stream(client, prompt="x", max_tokens=2000)
    both.next(stream)
    loads = both.run(client.loads.retrieve(include=["core"]))
    assert loads.active_requests == 1 and loads.loads[0].max_running_requests > 0
    both.run(stream.close())
    with pytest.raises(VLLMGrpcValidationError, match="include"):
        both.run(client.loads.retrieve(include="core"))


def test_kv_events_follow_the_cache(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    both.run(client.admin.flush_cache())
    subscription: Any = both.run(client.kv_events.subscribe())
    both.run(subscription.initial_metadata())
    both.create(client, prompt=list(range(20, 60)), max_tokens=1)
    seen = both.each(subscription, lambda batch: any(e.HasField("stored") for e in batch.events))
    stored = seen[-1].events[-1].stored
    assert list(stored.blocks[0].token_ids)[:2] == [20, 21]
    assert subscription.sequence_numbers == {0: seen[-1].sequence_number}


def test_a_record_of_load_alone_is_no_place_to_go_on_from(both: Both) -> None:
    class Sends(FakeVllmEngine):
        async def SubscribeKvEvents(self, request: Any, context: Any) -> Any:
            yield common_pb2.KvEventBatch(sequence_number=7, dp_rank=1)
            load = common_pb2.EngineLoad(load_only=True)
            yield common_pb2.KvEventBatch(sequence_number=9, dp_rank=1, load=load)

    with run_vllm_engine(Sends()) as address:
        subscription: Any = both.run(both.make(address).kv_events.subscribe())
        assert len(both.each(subscription)) == 2
        assert subscription.sequence_numbers == {1: 7}


def test_a_subscription_that_is_left_says_so(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    both.run(client.admin.flush_cache())
    subscription: Any = both.run(client.kv_events.subscribe())
    both.run(subscription.initial_metadata())
    both.run(client.admin.flush_cache())
    both.each(subscription, lambda batch: True)
    with pytest.raises(VLLMGrpcClosedError, match="its loop ended"):
        both.each(subscription)


def test_a_subscription_can_be_cancelled(both: Both, client: Any) -> None:
    subscription: Any = both.run(client.kv_events.subscribe())
    both.run(subscription.initial_metadata())
    subscription.cancel("enough")
    for _ in range(2):
        with pytest.raises(VLLMGrpcClosedError, match="enough"):
            both.next(subscription)


def test_subscriptions_that_cannot_be_are_refused(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    with pytest.raises(VLLMGrpcOutOfRangeError):
        both.next(both.run(client.kv_events.subscribe(start_sequence_number=9)))
    with pytest.raises(VLLMGrpcValidationError, match="start_sequence_number"):
        both.run(client.kv_events.subscribe(start_sequence_number=-1))
    engine.kv_events = False
    with pytest.raises(VLLMGrpcUnimplementedError):
        both.next(both.run(client.kv_events.subscribe()))


def test_profiling_that_was_not_set_up_is_an_error(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    engine.profiler = False
    for profile in (client.admin.start_profile, client.admin.stop_profile):
        with pytest.raises(VLLMGrpcInternalError, match="profiling is not enabled"):
            both.run(profile())


def test_a_cache_in_use_is_not_flushed(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    engine.token_delay = 0.02
    stream: Any = both.stream(client, prompt="x", max_tokens=2000)
    both.next(stream)
    outcome = both.run(client.admin.flush_cache())
    assert not outcome.success and "in flight" in outcome.message
    both.run(stream.close())


def test_administration(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    assert both.run(client.admin.flush_cache(timeout_s=1)).success
    assert both.run(client.admin.start_profile()).success and engine.profiling
    assert both.run(client.admin.stop_profile()).success and not engine.profiling
    for wrong in (-1, float("nan"), True, "1"):
        with pytest.raises(VLLMGrpcValidationError, match="timeout_s"):
            both.run(client.admin.flush_cache(timeout_s=wrong))


def test_unknown_call_options_are_refused(both: Both, client: Any) -> None:
    with pytest.raises(VLLMGrpcValidationError, match="retries"):
        both.run(client.health.check(retries=3))


def test_a_model_without_a_name_is_asked_for_it_only_once(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    import grpc

    from smg_proto.testing import Fault

    engine = address.servicer
    engine.script.add(Fault(grpc.StatusCode.UNIMPLEMENTED), rpc="GetModelInfo", times=None)
    client = both.make(address)
    for _ in range(3):
        assert both.create(client, prompt="x", max_tokens=1).model == ""
    assert both.create(client, prompt="x", max_tokens=1, model="mine").model == "mine"
    assert [r.rpc for r in engine.record.received].count("GetModelInfo") == 1


def test_messages_and_metadata_are_in_no_dump_no_schema_and_no_repr() -> None:
    kinds, found = [Result], 0
    for kind in kinds:
        kinds += kind.__subclasses__()
        for mode in ("validation", "serialization"):
            schema = kind.model_json_schema(mode=mode)
            assert schema.get("properties", {}).keys() == {
                name for name, field in kind.model_fields.items() if not field.exclude
            }
        for name in {"raw", "initial_metadata", "trailing_metadata"} & kind.model_fields.keys():
            field = kind.model_fields[name]
            assert (field.exclude, field.repr) == (True, False), (kind, name)
            found += 1
    assert found > 10


def test_waiting_for_the_engine_asks_at_intervals_until_its_time_is_over(
    both: Both, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    answers: list[bool] = []

    def healthy(**params: Any) -> Any:
        asked.append(params)
        answer = bool(answers) and answers.pop()

        async def later() -> bool:
            return answer

        return later() if both.asynchronous else answer

    monkeypatch.setattr(client, "is_healthy", healthy)
    assert both.run(client.wait_for_ready(timeout=0.2, poll_interval=3600)) is False
    assert [params["max_retries"] for params in asked] == [0]
    assert asked[0]["timeout"] <= 0.2  # what is left
    asked.clear()
    assert both.run(client.wait_for_ready(timeout=0.5, poll_interval=0.2)) is False
    assert len(asked) <= 3
    asked.clear()
    answers[:] = [True] + [False] * 19
    assert both.run(client.wait_for_ready(timeout=10, poll_interval=0.01)) is True
    assert len(asked) == 20 and asked[0]["timeout"] == 1.0  # at least a second for each
