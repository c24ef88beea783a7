"""FakeGateway over a socket: what each service answers."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from support import eventually

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc as rpc
from smg_proto.errors import from_rpc_error
from smg_proto.testing import Answer, Call, FakeGateway, Fault, serve_gateway
from smg_proto.testing._tokenizer import tokenizer

MODEL = "demo-model"
CITY = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
WEATHER = pb.Tool(function=pb.FunctionTool(name="get_weather", parameters_json=CITY))


def printed(text: str, role: pb.Role.ValueType = pb.ROLE_USER) -> pb.ChatMessage:
    return pb.ChatMessage(role=role, content=text)


def test_stop_example_of_the_contract(channel: grpc.Channel, gateway: FakeGateway) -> None:
    stub = rpc.CompletionServiceStub(channel)
    gateway.script.add(Answer("one two three four five"), times=2)
    request = pb.CompletionRequest(model=MODEL, prompt="Count!", stop=["four"])
    reply = stub.Complete(request)
    assert (reply.text, reply.finish_reason) == ("one two three ", "stop")
    assert reply.matched_stop.text == "four"
    assert reply.completion_tokens == len(tokenizer().encode("one two three four"))
    request.sampling.include_stop_in_output = True
    again = stub.Complete(request)
    assert again.text == "one two three four"
    assert again.completion_tokens == reply.completion_tokens


def test_same_seed_same_text_and_greedy_needs_none(channel: grpc.Channel) -> None:
    stub = rpc.CompletionServiceStub(channel)

    def text(**fields: Any) -> str:
        return stub.Complete(pb.CompletionRequest(model=MODEL, prompt="Say", **fields)).text

    assert text(seed=7) == text(seed=7) != text(seed=8)
    assert text(temperature=0, seed=1) == text(temperature=0, seed=2)


def test_completion_of_token_ids_returns_uncut_ids(channel: grpc.Channel) -> None:
    ids = pb.TokenIds(ids=tokenizer().encode("One contract"))
    request = pb.CompletionRequest(
        model=MODEL, prompt_token_ids=ids, temperature=0, stop=[" clients"]
    )
    reply = rpc.CompletionServiceStub(channel).Complete(request)
    assert reply.text == " serves many"
    assert tokenizer().decode(reply.token_ids) == " serves many clients"
    assert not reply.HasField("create_time")


def test_echo_and_logprobs_cover_the_whole_text(channel: grpc.Channel) -> None:
    request = pb.CompletionRequest(
        model=MODEL, prompt="One contract", echo=True, logprobs=2, max_tokens=4
    )
    reply = rpc.CompletionServiceStub(channel).Complete(request)
    assert reply.text.startswith("One contract ")
    assert "".join(entry.token for entry in reply.logprobs) == reply.text
    assert not reply.logprobs[0].HasField("logprob")
    assert all(len(entry.top) <= 2 for entry in reply.logprobs)


def test_chat_logprobs_bytes_are_the_text(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.script.add(Answer("café 🙂"))
    request = pb.ChatRequest(model=MODEL, messages=[printed("x")], logprobs=0)
    choice = rpc.ChatServiceStub(channel).Chat(request).choices[0]
    assert b"".join(entry.bytes for entry in choice.logprobs).decode() == choice.message.content
    assert choice.message.content == "café 🙂"


def test_chat_tool_call_and_its_result(channel: grpc.Channel) -> None:
    stub = rpc.ChatServiceStub(channel)
    sent = printed("Please call get_weather.")
    request = pb.ChatRequest(model=MODEL, messages=[sent], tools=[WEATHER], reasoning_effort="low")
    reply = stub.Chat(request).choices[0]
    assert reply.finish_reason == "tool_calls"
    (call,) = reply.message.tool_calls
    assert (call.name, call.arguments) == ("get_weather", '{"city":""}')
    assert reply.message.reasoning_content
    result = pb.ChatMessage(role=pb.ROLE_TOOL, tool_call_id=call.id, content="18 degrees")
    request.messages.extend([reply.message, result])
    request.reasoning_effort = ""
    answer = stub.Chat(request)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ["a", "b"]),
        ({"parallel_tool_calls": False}, ["a"]),
        ({"tool_choice": pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)}, []),
        ({"tool_choice": pb.ToolChoice(function="c")}, ["c"]),
    ],
    ids=str,
)
def test_tool_choice(channel: grpc.Channel, fields: dict[str, Any], names: list[str]) -> None:
    tools = [pb.Tool(function=pb.FunctionTool(name=f"tool_{name}")) for name in "abc"]
    if "tool_choice" in fields and fields["tool_choice"].function:
        fields = {"tool_choice": pb.ToolChoice(function="tool_c")}
    request = pb.ChatRequest(
        model=MODEL, messages=[printed("use tool_a and tool_b")], tools=tools, **fields
    )
    message = rpc.ChatServiceStub(channel).Chat(request).choices[0].message
    assert [call.name for call in message.tool_calls] == [f"tool_{name}" for name in names]
    assert len({call.id for call in message.tool_calls}) == len(names)


def test_arguments_stay_json_text(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.script.add(
        Answer("", "think", [Call("f", '{"b": 1, "a": 3.0, "c": 12345678901234567}')])
    )
    request = pb.ChatRequest(model=MODEL, messages=[printed("x")], tools=[WEATHER])
    message = rpc.ChatServiceStub(channel).Chat(request).choices[0].message
    assert message.tool_calls[0].arguments == '{"b":1,"a":3.0,"c":12345678901234567}'
    assert (message.reasoning_content, message.content) == ("think", "")


def test_reasoning_can_be_left_in_the_text(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.script.add(Answer("42.", reasoning="Six times seven."))
    request = pb.ChatRequest(model=MODEL, messages=[printed("x")], separate_reasoning=False)
    message = rpc.ChatServiceStub(channel).Chat(request).choices[0].message
    assert message.content == "<think>\nSix times seven.\n</think>\n\n42."


def test_chat_continues_the_assistants_message(channel: grpc.Channel) -> None:
    messages = [printed("Go on."), printed("One contract", pb.ROLE_ASSISTANT)]
    request = pb.ChatRequest(
        model=MODEL, messages=messages, continue_final_message=True, temperature=0
    )
    reply = rpc.ChatServiceStub(channel).Chat(request)
    assert reply.choices[0].message.content.startswith((" serves", " grows"))


def test_json_schema_is_followed(channel: grpc.Channel) -> None:
    request = pb.ChatRequest(
        model=MODEL,
        messages=[printed("x")],
        output_format=pb.OutputFormat(json_schema=pb.JsonSchema(schema_json=CITY)),
    )
    reply = rpc.ChatServiceStub(channel).Chat(request)
    assert reply.choices[0].message.content == '{"city": ""}'


def test_message_blocks_keep_their_order_and_can_be_sent_back(channel: grpc.Channel) -> None:
    stub = rpc.MessageServiceStub(channel)
    request = pb.CreateMessageRequest(model=MODEL, max_tokens=200, tools=[WEATHER])
    request.reasoning_effort = "low"
    request.turns.add(role=pb.ROLE_USER, blocks=[pb.MessageBlock(text="Call get_weather.")])
    reply = stub.CreateMessage(request)
    assert [block.WhichOneof("block") for block in reply.blocks] == ["reasoning", "tool_call"]
    assert reply.finish_reason == "tool_calls"
    counted = stub.CountMessageTokens(request).prompt_tokens
    assert counted == reply.usage.prompt_tokens
    request.turns.add(role=pb.ROLE_ASSISTANT, blocks=reply.blocks)
    result = pb.ToolResult(call_id=reply.blocks[1].tool_call.id, content="18 degrees")
    request.turns.add(role=pb.ROLE_USER, blocks=[pb.MessageBlock(tool_result=result)])
    request.reasoning_effort = ""
    answer = stub.CreateMessage(request)
    assert [block.WhichOneof("block") for block in answer.blocks] == ["text"]
    assert answer.finish_reason == "stop"


def test_message_finish_reasons(channel: grpc.Channel, gateway: FakeGateway) -> None:
    stub = rpc.MessageServiceStub(channel)
    turn = pb.Turn(role=pb.ROLE_USER, blocks=[pb.MessageBlock(text="x")])
    gateway.script.add(Answer("one two three"), times=2)
    cut = pb.CreateMessageRequest(model=MODEL, turns=[turn], max_tokens=2)
    assert stub.CreateMessage(cut).finish_reason == "length"
    stopped = stub.CreateMessage(
        pb.CreateMessageRequest(model=MODEL, turns=[turn], max_tokens=99, stop=["two"])
    )
    assert (stopped.finish_reason, stopped.matched_stop.text) == ("stop", "two")
    assert stopped.blocks[0].text == "one "


def test_stored_response_is_continued_listed_and_deleted(channel: grpc.Channel) -> None:
    stub = rpc.ResponseServiceStub(channel)
    first = stub.CreateResponse(
        pb.CreateResponseRequest(
            model=MODEL, input="Call get_weather", tools=[WEATHER], metadata={"k": "v"}
        )
    )
    assert first.status == pb.RESPONSE_STATUS_COMPLETED and first.metadata["k"] == "v"
    call = first.output[0].tool_call
    result = pb.ResponseItem(tool_result=pb.ToolResult(call_id=call.id, content="18 degrees"))
    second = stub.CreateResponse(
        pb.CreateResponseRequest(model=MODEL, previous_response_id=first.id, items=[result])
    )
    assert second.previous_response_id == first.id
    assert second.output[0].message.role == pb.ROLE_ASSISTANT
    stored = stub.GetResponse(pb.GetResponseRequest(id=first.id))
    assert stored.output == first.output
    (item,) = stub.ListResponseInputItems(pb.ListResponseInputItemsRequest(id=first.id)).items
    assert item.message.parts[0].text == "Call get_weather"
    stub.DeleteResponse(pb.DeleteResponseRequest(id=first.id))
    with pytest.raises(grpc.RpcError) as raised:
        stub.GetResponse(pb.GetResponseRequest(id=first.id))
    assert from_rpc_error(raised.value).reason == "RESPONSE_NOT_FOUND"


def test_the_history_of_a_response_affects_the_next(channel: grpc.Channel) -> None:
    stub = rpc.ResponseServiceStub(channel)

    def ask(**fields: Any) -> pb.Response:
        return stub.CreateResponse(pb.CreateResponseRequest(model=MODEL, input="And?", **fields))

    before = ask()
    after = ask(previous_response_id=before.id)
    third = ask(previous_response_id=after.id)
    used = [reply.usage.prompt_tokens for reply in (before, after, third)]
    assert used == sorted(set(used))


def test_response_is_not_stored_or_belongs_to_its_tenant(channel: grpc.Channel) -> None:
    stub = rpc.ResponseServiceStub(channel)
    mine = (("x-smg-tenant-id", "me"),)
    unstored = stub.CreateResponse(pb.CreateResponseRequest(model=MODEL, input="x", store=False))
    tenants = stub.CreateResponse(pb.CreateResponseRequest(model=MODEL, input="x"), metadata=mine)
    stored = stub.GetResponse(pb.GetResponseRequest(id=tenants.id), metadata=mine)
    assert stored.output == tenants.output
    for ident in (unstored.id, tenants.id):
        with pytest.raises(grpc.RpcError) as raised:
            stub.GetResponse(pb.GetResponseRequest(id=ident))
        assert from_rpc_error(raised.value).code == grpc.StatusCode.NOT_FOUND


def test_incomplete_response_says_why(channel: grpc.Channel) -> None:
    reply = rpc.ResponseServiceStub(channel).CreateResponse(
        pb.CreateResponseRequest(model=MODEL, input="x", max_tokens=2)
    )
    assert reply.status == pb.RESPONSE_STATUS_INCOMPLETE
    assert reply.finish_reason == "length"
    assert reply.output[-1].status == pb.ITEM_STATUS_INCOMPLETE


def test_background_response_is_polled(channel: grpc.Channel, gateway: FakeGateway) -> None:
    stub = rpc.ResponseServiceStub(channel)
    request = pb.CreateResponseRequest(model=MODEL, input="x", background=True)
    queued = stub.CreateResponse(request)
    assert queued.status == pb.RESPONSE_STATUS_QUEUED and not queued.output
    get = pb.GetResponseRequest(id=queued.id)
    eventually(lambda: stub.GetResponse(get).status == pb.RESPONSE_STATUS_COMPLETED)
    assert stub.GetResponse(get).output
    gateway.script.add(Fault(grpc.StatusCode.INTERNAL, "it broke"))
    get.id = stub.CreateResponse(request).id
    eventually(lambda: stub.GetResponse(get).status == pb.RESPONSE_STATUS_FAILED)
    error = stub.GetResponse(get).error
    assert (error.reason, error.message) == ("WORKER_ERROR", "it broke")


def test_background_response_is_cancelled_once(channel: grpc.Channel, gateway: FakeGateway) -> None:
    stub = rpc.ResponseServiceStub(channel)
    gateway.token_delay = 0.05
    request = pb.CreateResponseRequest(model=MODEL, input="x", background=True)
    call = stub.StreamResponse(request)
    ident = next(call).start.id
    cancelled = stub.CancelResponse(pb.CancelResponseRequest(id=ident))
    assert cancelled.status == pb.RESPONSE_STATUS_CANCELLED
    assert list(call)[-1].end.status == pb.RESPONSE_STATUS_CANCELLED
    with pytest.raises(grpc.RpcError) as raised:
        stub.CancelResponse(pb.CancelResponseRequest(id=ident))
    assert from_rpc_error(raised.value).reason == "RESPONSE_NOT_CANCELLABLE"


def test_background_stream_outlives_its_call(channel: grpc.Channel, gateway: FakeGateway) -> None:
    stub = rpc.ResponseServiceStub(channel)
    gateway.token_delay = 0.01
    call = stub.StreamResponse(pb.CreateResponseRequest(model=MODEL, input="x", background=True))
    get = pb.GetResponseRequest(id=next(call).start.id)
    call.cancel()
    eventually(lambda: stub.GetResponse(get).status == pb.RESPONSE_STATUS_COMPLETED)


def test_cancelled_stream_ends_the_generation(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.token_delay = 0.01
    counters = gateway.record.counters
    before = counters.cancelled
    stub = rpc.CompletionServiceStub(channel)
    request = pb.CompletionRequest(model=MODEL, prompt="x")
    request.sampling.ignore_eos = True
    call = stub.StreamComplete(request)
    next(call)
    assert counters.running == 1
    call.cancel()
    eventually(lambda: counters.cancelled == before + 1)
    eventually(lambda: counters.running == 0)


def test_request_id_is_returned_and_starts_the_reply_id(channel: grpc.Channel) -> None:
    stub = rpc.ChatServiceStub(channel)
    request = pb.ChatRequest(model=MODEL, messages=[printed("x")])
    reply, call = stub.Chat.with_call(request, metadata=(("x-request-id", "abc"),))
    assert reply.id.startswith("abc")
    assert ("x-request-id", "abc") in [tuple(pair) for pair in call.initial_metadata() or ()]


def test_embeddings_classes_and_ranks(channel: grpc.Channel) -> None:
    stub = rpc.EmbeddingServiceStub(channel)
    reply = stub.Embed(
        pb.EmbedRequest(
            model=MODEL,
            inputs=[
                pb.EmbedInput(text="a worker"),
                pb.EmbedInput(text="a worker"),
                pb.EmbedInput(text="the end"),
            ],
        )
    )
    one, same, other = (list(embedding.values) for embedding in reply.embeddings)
    assert one == same != other
    assert abs(sum(value * value for value in one) - 1) < 1e-5
    short = stub.Embed(
        pb.EmbedRequest(model=MODEL, inputs=[pb.EmbedInput(text="a worker")], dimensions=4)
    )
    assert len(short.embeddings[0].values) == 4
    classes = stub.Classify(
        pb.ClassifyRequest(
            model=MODEL, inputs=[pb.EmbedInput(text="worker"), pb.EmbedInput(text="client")]
        )
    ).results
    assert [found.label for found in classes] == ["WORKER", "CLIENT"]
    assert abs(sum(classes[0].probabilities) - 1) < 1e-5
    documents = ["the end of the stream", "a worker runs", "One contract"]
    request = pb.RerankRequest(
        model=MODEL,
        query="worker",
        documents=[pb.RerankDocument(text=text) for text in documents],
        top_n=2,
    )
    ranked = stub.Rerank(request).results
    assert ranked[0].index == 1 and len(ranked) == 2
    assert ranked[0].score >= ranked[1].score


def test_tokenize_and_detokenize(channel: grpc.Channel) -> None:
    stub = rpc.TokenizerServiceStub(channel)
    texts = ["One café", "<think>"]
    tokens = stub.Tokenize(pb.TokenizeRequest(model=MODEL, texts=texts))
    assert [list(ids.ids) for ids in tokens.sequences] == [tokenizer().encode(t) for t in texts]
    back = stub.Detokenize(pb.DetokenizeRequest(model=MODEL, sequences=tokens.sequences))
    assert list(back.texts) == texts
    special = pb.DetokenizeRequest(model=MODEL, sequences=[pb.TokenIds(ids=[2, 99999])])
    assert list(stub.Detokenize(special).texts) == [""]
    special.skip_special_tokens = False
    assert list(stub.Detokenize(special).texts) == ["<|end|>"]


def test_parsers_of_the_contracts_examples(channel: grpc.Channel) -> None:
    stub = rpc.ParserServiceStub(channel)
    thought = stub.ParseReasoning(
        pb.ParseReasoningRequest(text="<think>abc</think>def", parser="qwen3")
    )
    assert (thought.content, thought.reasoning_content) == ("def", "abc")
    text = 'So:<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    calls = stub.ParseToolCalls(pb.ParseToolCallsRequest(text=text, parser="qwen"))
    expected = text_format.Parse(
        """content: "So:" tool_calls { name: "f" arguments: '{"x":1}' }""",
        pb.ParseToolCallsResponse(),
    )
    assert calls == expected
    for broken in ("<tool_call>{", "<tool_call>nope</tool_call>", "<tool_call>[]</tool_call>", "x"):
        kept = stub.ParseToolCalls(pb.ParseToolCallsRequest(text=broken, parser="qwen"))
        assert (kept.content, len(kept.tool_calls)) == (broken, 0)


def test_models_and_gateway_info(channel: grpc.Channel) -> None:
    models = rpc.ModelServiceStub(channel)
    (model,) = models.ListModels(pb.ListModelsRequest()).models
    assert model.id == MODEL and model.context_length > 0
    assert models.GetModel(pb.GetModelRequest(id=MODEL)) == model
    info = rpc.GatewayServiceStub(channel).GetGatewayInfo(pb.GetGatewayInfoRequest())
    every = {service.full_name for service in pb.DESCRIPTOR.services_by_name.values()}
    assert set(info.services) == every
    assert {"response.watch", "worker.watch"} <= {*info.features}
    assert info.max_request_bytes == 4 << 20


def test_workers_are_stored_in_memory(channel: grpc.Channel) -> None:
    stub = rpc.WorkerServiceStub(channel)
    (built_in,) = stub.ListWorkers(pb.ListWorkersRequest(model=MODEL)).workers
    assert built_in.state == pb.WORKER_STATE_READY
    spec = pb.WorkerSpec(url="grpc://worker:50051", labels={"a": "1"}, api_key="secret")
    made = stub.CreateWorker(pb.CreateWorkerRequest(spec=spec))
    assert made.state == pb.WORKER_STATE_PENDING and not made.spec.api_key
    with pytest.raises(grpc.RpcError) as raised:
        stub.CreateWorker(pb.CreateWorkerRequest(spec=spec))
    assert from_rpc_error(raised.value).reason == "WORKER_ALREADY_EXISTS"
    stub.UpdateWorker(pb.UpdateWorkerRequest(id=made.id, priority=9, labels={"b": "2"}))
    read = stub.GetWorker(pb.GetWorkerRequest(id=made.id))
    assert (read.state, read.spec.priority) == (pb.WORKER_STATE_READY, 9)
    assert dict(read.spec.labels) == {"a": "1", "b": "2"}
    stub.DeleteWorker(pb.DeleteWorkerRequest(id=made.id))
    assert len(stub.ListWorkers(pb.ListWorkersRequest()).workers) == 1
    assert stub.GetWorkerLoads(pb.GetWorkerLoadsRequest()).loads[0].worker_url == built_in.spec.url
    assert not stub.FlushCache(pb.FlushCacheRequest()).failures


def test_script_can_look_at_the_request(channel: grpc.Channel, gateway: FakeGateway) -> None:
    stub = rpc.CompletionServiceStub(channel)

    def is_french(request: Any) -> bool:
        return "Bonjour" in request.prompt

    gateway.script.add(Answer("oui"), when=is_french, times=None)
    gateway.script.add(Fault(grpc.StatusCode.UNAVAILABLE), rpc="ListModels")
    gateway.script.add(Fault(grpc.StatusCode.UNAVAILABLE), rpc="GetResponse")
    for _ in range(2):
        french = pb.CompletionRequest(model=MODEL, prompt="Bonjour!")
        assert stub.Complete(french).text == "oui"
    assert stub.Complete(pb.CompletionRequest(model=MODEL, prompt="Hello!")).text != "oui"
    responses, models = rpc.ResponseServiceStub(channel), rpc.ModelServiceStub(channel)
    with pytest.raises(grpc.RpcError) as raised:
        responses.GetResponse(pb.GetResponseRequest(id="x"))
    assert from_rpc_error(raised.value).code == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.RpcError) as raised:
        models.ListModels(pb.ListModelsRequest())
    assert from_rpc_error(raised.value).code == grpc.StatusCode.UNAVAILABLE
    received = gateway.record.received[-1]
    assert received.rpc == "ListModels"


async def test_it_also_runs_in_the_callers_event_loop() -> None:
    async with serve_gateway() as address, grpc.aio.insecure_channel(address) as channel:
        stub = rpc.CompletionServiceStub(channel)
        request = pb.CompletionRequest(model=MODEL, prompt="hello", max_tokens=5)

        async def text() -> str:
            return "".join([event.delta.text async for event in stub.StreamComplete(request)])

        assert len(set(await asyncio.gather(*(text() for _ in range(20))))) == 1
