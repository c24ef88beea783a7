"""The services that generate nothing answer as the gateway's HTTP API does."""

import math
from typing import Any

import grpc
import pytest
from frontdoor.replay import EXCHANGES
from support import eventually

from e2e.deployment import Deployment
from smg_proto import __version__, wait_ready
from smg_proto import smg_pb2 as smg
from smg_proto.errors import SmgError, from_rpc_error
from smg_proto.streams import collect
from smg_proto.testing import FakeVllmEngine, run_vllm_engine

pytestmark = pytest.mark.e2e

TEXTS = ["hello world", "a"]


def test_embeddings_equal_one_request_for_each_input(deployment: Deployment) -> None:
    found = deployment.door.embeddings.Embed(
        smg.EmbedRequest(
            model=deployment.model, inputs=[smg.EmbedInput(text=text) for text in TEXTS]
        )
    )
    there = [
        deployment.http.post("/v1/embeddings", model=deployment.model, input=text) for text in TEXTS
    ]
    assert len(found.embeddings) == len(there)
    for one, other in zip(found.embeddings, there, strict=True):
        expected = other["data"][0]["embedding"]
        assert len(one.values) == len(expected)
        assert all(map(lambda a, b: math.isclose(a, b, rel_tol=1e-6), one.values, expected))
    assert found.usage.prompt_tokens == sum(one["usage"]["prompt_tokens"] for one in there)
    assert found.model == deployment.model


def test_dimensions_that_the_worker_ignores_are_not_silently_ignored(
    deployment: Deployment,
) -> None:
    request = smg.EmbedRequest(
        model=deployment.model, inputs=[smg.EmbedInput(text="a")], dimensions=3
    )
    assert _failure(deployment.door.embeddings.Embed, request).reason == "UNSUPPORTED_BY_BACKEND"


def test_classes_equal(deployment: Deployment) -> None:
    found = deployment.door.embeddings.Classify(
        smg.ClassifyRequest(
            model=deployment.model, inputs=[smg.EmbedInput(text=text) for text in TEXTS]
        )
    )
    for one, text in zip(found.results, TEXTS, strict=True):
        (other,) = deployment.http.post("/v1/classify", model=deployment.model, input=text)["data"]
        assert one.label == other["label"]
        assert len(one.probabilities) == other["num_classes"]
        pairs = zip(one.probabilities, other["probs"], strict=True)
        assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def test_reranking_is_not_supported_over_grpc_workers(deployment: Deployment) -> None:
    request = smg.RerankRequest(
        model=deployment.model,
        query="q",
        documents=[smg.RerankDocument(text=text) for text in "ab"],
    )
    failure = _failure(deployment.door.embeddings.Rerank, request)
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED
    assert failure.reason == "UNSUPPORTED_BY_BACKEND"


def test_tokens_equal_and_are_decoded(deployment: Deployment) -> None:
    found = deployment.door.tokenizer.Tokenize(
        smg.TokenizeRequest(model=deployment.model, texts=TEXTS)
    )
    there = deployment.http.post("/v1/tokenize", model=deployment.model, prompt=TEXTS)
    assert [list(one.ids) for one in found.sequences] == there["tokens"]
    back = deployment.door.tokenizer.Detokenize(
        smg.DetokenizeRequest(model=deployment.model, sequences=found.sequences)
    )
    assert list(back.texts) == TEXTS
    tokens = deployment.http.post("/v1/detokenize", model=deployment.model, tokens=there["tokens"])
    assert list(back.texts) == tokens["text"]


def test_a_model_without_tokenizer_is_named(deployment: Deployment) -> None:
    request = smg.TokenizeRequest(model="nope", texts=["a"])
    assert _failure(deployment.door.tokenizer.Tokenize, request).reason == "TOKENIZER_NOT_FOUND"


def test_reasoning_is_parsed_as_over_http(deployment: Deployment) -> None:
    text = "<think>abc</think>def"
    found = deployment.door.parsers.ParseReasoning(
        smg.ParseReasoningRequest(text=text, parser="qwen3")
    )
    there = deployment.http.post("/parse/reasoning", text=text, reasoning_parser="qwen3")
    assert found.content == there["normal_text"] == "def"
    assert found.reasoning_content == there["reasoning_text"] == "abc"


def test_tool_calls_are_parsed_as_over_http(deployment: Deployment) -> None:
    text = 'so: <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    tool = smg.Tool(function=smg.FunctionTool(name="add"))
    request = smg.ParseToolCallsRequest(text=text, parser="qwen", tools=[tool])
    found = deployment.door.parsers.ParseToolCalls(request)
    function = {"type": "function", "function": {"name": "add", "parameters": {}}}
    body = {"text": text, "tool_call_parser": "qwen", "tools": [function]}
    there = deployment.http.post("/parse/function_call", **body)
    assert found.content == there["remaining_text"]
    (call,) = there["tool_calls"]
    assert [(one.name, one.arguments) for one in found.tool_calls] == [
        (call["function"]["name"], call["function"]["arguments"])
    ]
    assert call["function"]["name"] == "add"


def test_an_unknown_parser_is_named(deployment: Deployment) -> None:
    reasoning = smg.ParseReasoningRequest(text="a", parser="nope")
    calls = smg.ParseToolCallsRequest(text="a", parser="nope")
    assert _failure(deployment.door.parsers.ParseReasoning, reasoning).reason == "PARSER_NOT_FOUND"
    assert _failure(deployment.door.parsers.ParseToolCalls, calls).reason == "PARSER_NOT_FOUND"


def test_models_equal_and_report_their_capabilities(deployment: Deployment) -> None:
    listed = deployment.door.models.ListModels(smg.ListModelsRequest()).models
    there = deployment.http.ask("GET", "/v1/models")[1]["data"]
    assert [(m.id, m.owned_by) for m in listed] == [(m["id"], m["owned_by"]) for m in there]
    worker = deployment.http.ask("GET", "/workers")[1]["workers"][0]["models"][0]
    one = deployment.door.models.GetModel(smg.GetModelRequest(id=deployment.model))
    assert one == listed[0]
    assert list(one.capabilities) == worker["model_type"]
    assert one.context_length == worker["context_length"]
    assert _failure(deployment.door.models.GetModel, smg.GetModelRequest(id="nope")).reason in (
        "MODEL_NOT_FOUND",
        "ROUTE_NOT_FOUND",
    )


def test_the_gateway_reports_its_version(deployment: Deployment) -> None:
    info = deployment.door.gateway.GetGatewayInfo(smg.GetGatewayInfoRequest())
    assert info.version == deployment.http.ask("GET", "/loads")[1]["version"].removeprefix("smg-")
    assert info.proto_version == __version__
    assert "smg.v1.ChatService" in info.services


def test_loads_equal(deployment: Deployment) -> None:
    deployment.door.workers.GetWorkerLoads(smg.GetWorkerLoadsRequest())
    eventually(lambda: deployment.http.ask("GET", "/loads")[1]["loads"], "the loads are read")
    found = deployment.door.workers.GetWorkerLoads(smg.GetWorkerLoadsRequest())
    there = deployment.http.ask("GET", "/loads")[1]
    (one,), (other,) = found.loads, there["loads"]
    assert one.worker_url == other["worker"]
    assert one.max_running_requests == other["max_running_requests"] > 0
    assert one.kv_capacity_tokens == other["max_total_num_tokens"]
    assert found.read_time.seconds > 0
    recorded = EXCHANGES["loads"]["response"]["body"]
    assert members(there) == members(recorded)


def members(data: Any) -> Any:
    """The names of what an object has, inside of objects and of the first of a list too."""
    if isinstance(data, dict):
        return {name: members(value) for name, value in data.items()}
    return [members(data[0])] if isinstance(data, list) and data else None


def test_the_cache_is_flushed(deployment: Deployment) -> None:
    flushed = deployment.door.workers.FlushCache(smg.FlushCacheRequest())
    assert (flushed.flushed_workers, len(flushed.failures)) == (1, 0)


def test_a_worker_is_added_changed_and_removed(deployment: Deployment) -> None:
    """Its model has another name, so nothing of the other tests goes there."""
    workers = deployment.door.workers
    with run_vllm_engine(FakeVllmEngine(name="guest")) as address:
        spec = smg.WorkerSpec(url=f"grpc://{address}", priority=7, labels={"team": "a"})
        made = workers.CreateWorker(smg.CreateWorkerRequest(spec=spec))
        assert made.spec.url == spec.url

        def get() -> smg.Worker:
            return workers.GetWorker(smg.GetWorkerRequest(id=made.id))

        eventually(lambda: get().state == smg.WORKER_STATE_READY, "the worker is ready")
        assert get().spec.priority == 7
        assert get().spec.labels["team"] == "a"
        assert (get().runtime, get().connection_mode) == ("vllm", "grpc")
        everyone = workers.ListWorkers(smg.ListWorkersRequest()).workers
        there = deployment.http.ask("GET", "/workers")[1]["workers"]
        assert {w.id for w in everyone} == {w["id"] for w in there}
        (guest,) = workers.ListWorkers(smg.ListWorkersRequest(model="guest")).workers
        assert guest.id == made.id
        again = smg.CreateWorkerRequest(spec=smg.WorkerSpec(url=spec.url))
        assert _failure(workers.CreateWorker, again).reason == "WORKER_ALREADY_EXISTS"
        change = smg.UpdateWorkerRequest(id=made.id, priority=9, labels={"shift": "late"})
        workers.UpdateWorker(change)
        eventually(lambda: get().spec.priority == 9, "the worker has changed")
        assert get().spec.labels["team"] == "a"
        assert get().spec.labels["shift"] == "late"
        workers.DeleteWorker(smg.DeleteWorkerRequest(id=made.id))
        eventually(lambda: not _there(deployment, made.id), "the worker is gone")
    failure = _failure(workers.GetWorker, smg.GetWorkerRequest(id=made.id))
    assert failure.reason == "WORKER_NOT_FOUND"
    assert _failure(workers.GetWorker, smg.GetWorkerRequest(id="nope")).reason == "INVALID_REQUEST"


def _there(deployment: Deployment, id: str) -> bool:
    everyone = deployment.door.workers.ListWorkers(smg.ListWorkersRequest()).workers
    return id in {worker.id for worker in everyone}


def test_a_response_is_stored_continued_and_deleted(deployment: Deployment) -> None:
    responses = deployment.door.responses
    first = smg.CreateResponseRequest(model=deployment.model, input="How are you?", max_tokens=4)
    made = responses.CreateResponse(first)
    stored = responses.GetResponse(smg.GetResponseRequest(id=made.id))
    assert list(stored.output) == list(made.output)
    assert stored.id == made.id
    (item,) = responses.ListResponseInputItems(smg.ListResponseInputItemsRequest(id=made.id)).items
    assert item.message.role == smg.ROLE_USER
    assert item.message.parts[0].text == "How are you?"

    # What came out goes back in, as items or by its id.
    more = smg.ResponseItem(message=smg.ItemMessage(role=smg.ROLE_USER, content="And?"))
    both = [item, *made.output, more]
    by_items = smg.CreateResponseRequest(model=deployment.model, items=both, max_tokens=4)
    by_id = smg.CreateResponseRequest(
        model=deployment.model, input="And?", previous_response_id=made.id, max_tokens=4
    )
    one, other = responses.CreateResponse(by_items), responses.CreateResponse(by_id)
    assert one.usage.prompt_tokens == other.usage.prompt_tokens
    assert other.previous_response_id == made.id

    responses.DeleteResponse(smg.DeleteResponseRequest(id=made.id))
    for call, request in (
        (responses.GetResponse, smg.GetResponseRequest(id=made.id)),
        (responses.CancelResponse, smg.CancelResponseRequest(id=made.id)),
        (responses.CreateResponse, by_id),
    ):
        failure = _failure(call, request)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.NOT_FOUND,
            "RESPONSE_NOT_FOUND",
        ), failure


def test_a_response_that_is_not_stored_cannot_be_read(deployment: Deployment) -> None:
    request = smg.CreateResponseRequest(
        model=deployment.model, input="a", store=False, max_tokens=2
    )
    made = deployment.door.responses.CreateResponse(request)
    failure = _failure(deployment.door.responses.GetResponse, smg.GetResponseRequest(id=made.id))
    assert failure.reason == "RESPONSE_NOT_FOUND"


def test_a_background_response_is_polled_and_cannot_be_cancelled_after_its_end(
    deployment: Deployment,
) -> None:
    responses = deployment.door.responses
    request = smg.CreateResponseRequest(
        model=deployment.model, input="a", background=True, max_tokens=4
    )
    made = responses.CreateResponse(request)
    assert made.status in (smg.RESPONSE_STATUS_QUEUED, smg.RESPONSE_STATUS_IN_PROGRESS)
    poll = smg.GetResponseRequest(id=made.id)
    over = (smg.RESPONSE_STATUS_COMPLETED, smg.RESPONSE_STATUS_INCOMPLETE)
    eventually(lambda: responses.GetResponse(poll).status in over, "the response is over")
    failure = _failure(responses.CancelResponse, smg.CancelResponseRequest(id=made.id))
    assert failure.reason == "RESPONSE_NOT_CANCELLABLE"
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_background_response_is_watched_to_its_end(deployment: Deployment) -> None:
    responses = deployment.door.responses
    request = smg.CreateResponseRequest(
        model=deployment.model, input="a", background=True, max_tokens=4
    )
    made = responses.CreateResponse(request)
    watched = collect(responses.WatchResponse(smg.WatchResponseRequest(id=made.id), timeout=60))
    stored = responses.GetResponse(smg.GetResponseRequest(id=made.id))
    assert watched.id == made.id and watched.output
    assert list(watched.output) == list(stored.output)
    assert (watched.status, watched.usage) == (stored.status, stored.usage)
    unknown = smg.WatchResponseRequest(id="resp_none")
    failure = _failure(lambda request: list(responses.WatchResponse(request)), unknown)
    assert failure.reason == "RESPONSE_NOT_FOUND"


def test_a_request_with_an_idempotency_key_runs_once(deployment: Deployment) -> None:
    responses, workers = deployment.door.responses, deployment.door.workers
    request = smg.CreateResponseRequest(
        model=deployment.model, input="a", max_tokens=2, idempotency_key=deployment.model
    )
    first = responses.CreateResponse(request)
    assert responses.CreateResponse(request).id == first.id
    request.idempotency_key += "2"
    assert responses.CreateResponse(request).id != first.id
    with run_vllm_engine(FakeVllmEngine(name="once")) as address:
        spec = smg.WorkerSpec(url=f"grpc://{address}")
        create = smg.CreateWorkerRequest(spec=spec, idempotency_key=address)
        made = workers.CreateWorker(create)
        assert workers.CreateWorker(create).id == made.id
        wait_ready(workers, made, timeout=60)
        workers.DeleteWorker(smg.DeleteWorkerRequest(id=made.id))
        eventually(lambda: not _there(deployment, made.id), "the worker is gone")


def test_the_request_id_is_returned_and_in_the_reply(deployment: Deployment) -> None:
    request = smg.ChatRequest(
        model=deployment.model,
        messages=[smg.ChatMessage(role=smg.ROLE_USER, content="a")],
        max_tokens=2,
    )
    reply, call = deployment.door.chats.Chat.with_call(
        request, metadata=(("x-request-id", "mine-1"), ("x-smg-parser", "symphony"))
    )
    assert dict(call.initial_metadata())["x-request-id"] == "mine-1"
    assert reply.id.startswith("mine-1")
    assert reply.pipeline.parser == "symphony"
    assert reply.pipeline.worker_url.startswith("grpc://127.0.0.1:")
    assert reply.pipeline.total_duration.nanos > 0


def test_errors_of_the_gateway_are_typed(deployment: Deployment) -> None:
    chats = deployment.door.chats
    hello = smg.ChatMessage(role=smg.ROLE_USER, content="a")
    unknown = _failure(chats.Chat, smg.ChatRequest(model="nope", messages=[hello]))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert dict(unknown.metadata) == {"http_status": "404", "code": "model_not_found"}
    hot = smg.ChatRequest(model=deployment.model, messages=[hello], temperature=9)
    failure = _failure(chats.Chat, hot)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )
    assert [found.field for found in failure.field_violations] == ["temperature"]
    long = smg.ChatMessage(role=smg.ROLE_USER, content="many words " * 4000)
    failure = _failure(chats.Chat, smg.ChatRequest(model=deployment.model, messages=[long]))
    assert failure.reason == "CONTEXT_LENGTH_EXCEEDED"


def _failure(call: object, request: object) -> SmgError:
    assert callable(call)
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return from_rpc_error(caught.value)
