"""What the embedded gateway refuses, read through smg_proto.errors: code, reason, fields."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc as rpc
from smg_proto.errors import SmgError, from_rpc_error
from smg_proto.testing import FakeGateway, run_gateway

MODEL = "demo-model"
Code = grpc.StatusCode
USER = pb.ChatMessage(role=pb.ROLE_USER, content="hello")
TURN = pb.Turn(role=pb.ROLE_USER, blocks=[pb.MessageBlock(text="hello")])
TOOL = pb.Tool(function=pb.FunctionTool(name="f"))
MCP = pb.Tool(mcp=pb.McpTool(server_label="m"))
IMAGE = pb.Media(url="http://127.0.0.1/cat.png")
PNG = pb.Media(data=b"\x89PNG", media_type="image/png")


def refusal(call: Callable[[], object]) -> SmgError:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return from_rpc_error(raised.value)


def completion(**fields: Any) -> pb.CompletionRequest:
    known: dict[str, Any] = {"model": MODEL, "prompt": "hello"}
    return pb.CompletionRequest(**{k: v for k, v in (known | fields).items() if v is not None})


def chat(**fields: Any) -> pb.ChatRequest:
    return pb.ChatRequest(**{"model": MODEL, "messages": [USER]} | fields)


def message(**fields: Any) -> pb.CreateMessageRequest:
    known: dict[str, Any] = {"model": MODEL, "turns": [TURN], "max_tokens": 9}
    return pb.CreateMessageRequest(**known | fields)


def response(**fields: Any) -> pb.CreateResponseRequest:
    return pb.CreateResponseRequest(**{"model": MODEL, "input": "hello"} | fields)


def with_part(part: pb.ContentPart, role: pb.Role.ValueType = pb.ROLE_USER) -> pb.ChatRequest:
    return chat(messages=[pb.ChatMessage(role=role, parts=[part])])


def with_block(block: pb.MessageBlock) -> pb.CreateMessageRequest:
    return message(turns=[pb.Turn(role=pb.ROLE_USER, blocks=[block])])


def with_item(part: pb.ContentPart, role: pb.Role.ValueType = pb.ROLE_USER) -> Any:
    return items(pb.ResponseItem(message=pb.ItemMessage(role=role, parts=[part])))


def items(*found: pb.ResponseItem) -> pb.CreateResponseRequest:
    return pb.CreateResponseRequest(model=MODEL, items=found)


# The request, and the fields that the violations must name.
INVALID: list[tuple[Any, list[str]]] = [
    (pb.CompletionRequest(), ["prompt", "model"]),
    (completion(model=None), ["model"]),
    (completion(prompt=None), ["prompt"]),
    (completion(prompt=""), ["prompt"]),
    (completion(max_tokens=0), ["max_tokens"]),
    (completion(temperature=2.5), ["temperature"]),
    (completion(temperature=-0.5), ["temperature"]),
    (completion(temperature=float("nan")), ["temperature"]),
    (completion(top_p=0), ["top_p"]),
    (completion(top_k=0), ["top_k"]),
    (completion(frequency_penalty=2.1), ["frequency_penalty"]),
    (completion(presence_penalty=-2.1), ["presence_penalty"]),
    (completion(logprobs=21), ["logprobs"]),
    (completion(stop=["a", ""]), ["stop[1]"]),
    (completion(stop=list("abcde")), ["stop"]),
    (completion(sampling=pb.SamplingParams(min_p=2)), ["sampling.min_p"]),
    (completion(sampling=pb.SamplingParams(min_tokens=9), max_tokens=3), ["sampling.min_tokens"]),
    (completion(prompt=None, prompt_token_ids=pb.TokenIds()), ["prompt_token_ids"]),
    (completion(prompt=None, prompt_token_ids=pb.TokenIds(ids=[99999])), ["prompt_token_ids"]),
    (
        completion(
            prompt=None, prompt_token_ids=pb.TokenIds(ids=[9]), logprobs=1, echo=True, user="u"
        ),
        ["logprobs", "echo", "user"],
    ),
    (completion(output_format=pb.OutputFormat()), ["output_format"]),
    (
        completion(output_format=pb.OutputFormat(json_schema=pb.JsonSchema(schema_json="{"))),
        ["output_format.json_schema.schema_json"],
    ),
    (completion(max_tokens=0, temperature=3), ["max_tokens", "temperature"]),
    (pb.ChatRequest(model=MODEL), ["messages"]),
    (chat(n=0), ["n"]),
    (chat(n=11), ["n"]),
    (chat(n=2, temperature=0), ["n"]),
    (chat(tools=[MCP]), ["tools[0].mcp"]),
    (chat(tools=[TOOL, TOOL]), ["tools[1].function.name"]),
    (chat(tools=[pb.Tool()]), ["tools[0]"]),
    (
        chat(tools=[pb.Tool(function=pb.FunctionTool(name="f", parameters_json="[]"))]),
        ["tools[0].function.parameters_json"],
    ),
    (chat(tool_choice=pb.ToolChoice(function="g"), tools=[TOOL]), ["tool_choice.function"]),
    (chat(tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)), ["tool_choice"]),
    (chat(tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO)), ["tool_choice"]),
    (chat(continue_final_message=True), ["continue_final_message"]),
    (chat(chat_template_kwargs_json="nope"), ["chat_template_kwargs_json"]),
    (chat(messages=[pb.ChatMessage(content="x")]), ["messages[0].role"]),
    (chat(messages=[USER, pb.ChatMessage(role=pb.ROLE_TOOL)]), ["messages[1].tool_call_id"]),
    (pb.CreateMessageRequest(model=MODEL, turns=[TURN]), ["max_tokens"]),
    (message(temperature=1.5), ["temperature"]),
    (message(temperature=2.5), ["temperature"]),
    (message(top_k=-1), ["top_k"]),
    (message(turns=[pb.Turn(blocks=[pb.MessageBlock(text="x")])]), ["turns[0].role"]),
    (
        message(turns=[pb.Turn(role=pb.ROLE_USER, blocks=[pb.MessageBlock()])]),
        ["turns[0].blocks[0]"],
    ),
    (response(input=""), ["input"]),
    (response(output_format=pb.OutputFormat(regex="a")), ["output_format.regex"]),
    (items(pb.ResponseItem()), ["items[0]"]),
    (
        items(pb.ResponseItem(message=pb.ItemMessage(role=pb.ROLE_TOOL))),
        ["items[0].message.role"],
    ),
    (
        items(pb.ResponseItem(tool_call=pb.ToolCall(name="f", server_label="m"))),
        ["items[0].tool_call"],
    ),
    (items(pb.ResponseItem(tool_result=pb.ToolResult())), ["items[0].tool_result.call_id"]),
    (
        with_part(pb.ContentPart(image=pb.Media(data=b"x"))),
        ["messages[0].parts[0].image.media_type"],
    ),
    (with_part(pb.ContentPart(image=pb.Media())), ["messages[0].parts[0].image"]),
    (
        with_part(pb.ContentPart(image=pb.Media(url="/cat.png"))),
        ["messages[0].parts[0].image.url"],
    ),
    (
        with_part(pb.ContentPart(audio=pb.Media(url="http://a/a.wav", detail="low"))),
        ["messages[0].parts[0].audio.detail"],
    ),
    (with_part(pb.ContentPart(image=IMAGE), pb.ROLE_ASSISTANT), ["messages[0].parts[0].image"]),
    (
        with_block(pb.MessageBlock(image=pb.Media(url="http://a/a.png", detail="low"))),
        ["turns[0].blocks[0].image.detail"],
    ),
    (with_item(pb.ContentPart(audio=IMAGE)), ["items[0].message.parts[0].audio"]),
    (
        with_item(pb.ContentPart(image=IMAGE), pb.ROLE_ASSISTANT),
        ["items[0].message.parts[0].image"],
    ),
]


def rpcs_of(request: Any, channel: grpc.Channel) -> list[Any]:
    """The unary and the streaming RPC that take a request."""
    match request:
        case pb.CompletionRequest():
            completion = rpc.CompletionServiceStub(channel)
            return [completion.Complete, lambda r: list(completion.StreamComplete(r))]
        case pb.ChatRequest():
            chat = rpc.ChatServiceStub(channel)
            return [chat.Chat, lambda r: list(chat.StreamChat(r))]
        case pb.CreateMessageRequest():
            message = rpc.MessageServiceStub(channel)
            return [message.CreateMessage, lambda r: list(message.StreamMessage(r))]
        case _:
            response = rpc.ResponseServiceStub(channel)
            return [response.CreateResponse, lambda r: list(response.StreamResponse(r))]


def test_every_violation_names_its_field(channel: grpc.Channel) -> None:
    for request, fields in INVALID:
        for call in rpcs_of(request, channel):
            found = refusal(lambda call=call, request=request: call(request))  # type: ignore[misc]
            output = f"{request}: {found}"
            assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST"), output
            assert [violation.field for violation in found.field_violations] == fields, output
            assert found.domain == "smg.v1"


OTHERS: list[tuple[Any, grpc.StatusCode, str]] = [
    (completion(model="other"), Code.NOT_FOUND, "MODEL_NOT_FOUND"),
    (chat(model="other"), Code.NOT_FOUND, "MODEL_NOT_FOUND"),
    (message(model="other"), Code.NOT_FOUND, "MODEL_NOT_FOUND"),
    (response(model="other"), Code.NOT_FOUND, "MODEL_NOT_FOUND"),
    (response(previous_response_id="resp_0"), Code.NOT_FOUND, "RESPONSE_NOT_FOUND"),
    (completion(prompt="word " * 5000), Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED"),
    (
        completion(output_format=pb.OutputFormat(regex="a+")),
        Code.UNIMPLEMENTED,
        "UNSUPPORTED_BY_BACKEND",
    ),
    (
        completion(
            output_format=pb.OutputFormat(
                json_schema=pb.JsonSchema(schema_json='{"type":"string","pattern":"a"}')
            )
        ),
        Code.UNIMPLEMENTED,
        "UNSUPPORTED_BY_BACKEND",
    ),
    (with_part(pb.ContentPart(video=IMAGE)), Code.INVALID_ARGUMENT, "MULTIMODAL_NOT_SUPPORTED"),
    (
        items(
            pb.ResponseItem(
                tool_result=pb.ToolResult(call_id="a", parts=[pb.ContentPart(image=PNG)])
            )
        ),
        Code.INVALID_ARGUMENT,
        "MULTIMODAL_NOT_SUPPORTED",
    ),
]


@pytest.mark.parametrize(("request_", "code", "reason"), OTHERS, ids=lambda v: str(v)[:40])
def test_other_rejections(
    channel: grpc.Channel, request_: Any, code: grpc.StatusCode, reason: str
) -> None:
    for call in rpcs_of(request_, channel):
        found = refusal(lambda call=call: call(request_))  # type: ignore[misc]
        assert (found.code, found.reason) == (code, reason), str(found)


def test_a_text_only_model_rejects_media() -> None:
    part = pb.ContentPart(image=PNG)
    with run_gateway(FakeGateway(media=())) as address, grpc.insecure_channel(address) as channel:
        for request in (with_part(part), with_block(pb.MessageBlock(image=PNG)), with_item(part)):
            for call in rpcs_of(request, channel):
                found = refusal(lambda call=call, request=request: call(request))  # type: ignore[misc]
                assert found.reason == "MULTIMODAL_NOT_SUPPORTED", str(found)
        models = rpc.ModelServiceStub(channel).ListModels(pb.ListModelsRequest()).models
        assert not {"vision", "audio"} & {*models[0].capabilities}


def test_rejections_of_the_other_services(channel: grpc.Channel) -> None:
    embedding, tokenizer = rpc.EmbeddingServiceStub(channel), rpc.TokenizerServiceStub(channel)
    models, parser = rpc.ModelServiceStub(channel), rpc.ParserServiceStub(channel)
    worker, response = rpc.WorkerServiceStub(channel), rpc.ResponseServiceStub(channel)
    missing_id = "00000000-0000-0000-0000-000000000000"
    cases: list[tuple[Callable[[], object], grpc.StatusCode, str]] = [
        (lambda: embedding.Embed(pb.EmbedRequest(model=MODEL)), Code.INVALID_ARGUMENT, "inputs"),
        (
            lambda: embedding.Embed(
                pb.EmbedRequest(model=MODEL, inputs=[pb.EmbedInput(text="x")], dimensions=0)
            ),
            Code.INVALID_ARGUMENT,
            "dimensions",
        ),
        (
            lambda: embedding.Rerank(
                pb.RerankRequest(model=MODEL, documents=[pb.RerankDocument(text="x")])
            ),
            Code.INVALID_ARGUMENT,
            "query",
        ),
        (
            lambda: embedding.Classify(
                pb.ClassifyRequest(model="other", inputs=[pb.EmbedInput(text="x")])
            ),
            Code.NOT_FOUND,
            "MODEL_NOT_FOUND",
        ),
        (
            lambda: tokenizer.Tokenize(pb.TokenizeRequest(model="other", texts=["x"])),
            Code.NOT_FOUND,
            "TOKENIZER_NOT_FOUND",
        ),
        (
            lambda: tokenizer.Detokenize(pb.DetokenizeRequest(model=MODEL)),
            Code.INVALID_ARGUMENT,
            "sequences",
        ),
        (lambda: models.GetModel(pb.GetModelRequest()), Code.INVALID_ARGUMENT, "id"),
        (
            lambda: models.GetModel(pb.GetModelRequest(id="other")),
            Code.NOT_FOUND,
            "MODEL_NOT_FOUND",
        ),
        (
            lambda: parser.ParseReasoning(pb.ParseReasoningRequest(text="x", parser="other")),
            Code.NOT_FOUND,
            "PARSER_NOT_FOUND",
        ),
        (
            lambda: parser.ParseToolCalls(pb.ParseToolCallsRequest(text="x")),
            Code.INVALID_ARGUMENT,
            "parser",
        ),
        (
            lambda: worker.GetWorker(pb.GetWorkerRequest(id=missing_id)),
            Code.NOT_FOUND,
            "WORKER_NOT_FOUND",
        ),
        (lambda: worker.GetWorker(pb.GetWorkerRequest(id="x")), Code.INVALID_ARGUMENT, "id"),
        (
            lambda: worker.CreateWorker(pb.CreateWorkerRequest(spec=pb.WorkerSpec(url="nope"))),
            Code.INVALID_ARGUMENT,
            "spec.url",
        ),
        (
            lambda: response.GetResponse(pb.GetResponseRequest(id="x")),
            Code.NOT_FOUND,
            "RESPONSE_NOT_FOUND",
        ),
    ]
    for call, code, named in cases:
        found = refusal(call)
        fields = [violation.field for violation in found.field_violations]
        assert (found.code, named in (found.reason, *fields)) == (code, True), str(found)


def test_two_output_formats_cannot_be_set() -> None:
    both = '{"outputFormat": {"regex": "a", "grammar": "b"}}'
    with pytest.raises(json_format.ParseError, match="oneof"):
        json_format.Parse(both, pb.CompletionRequest())
    output_format = pb.OutputFormat(regex="a")
    output_format.grammar = "b"
    assert not output_format.HasField("regex")


def test_oversize_message_is_resource_exhausted(channel: grpc.Channel) -> None:
    stub = rpc.CompletionServiceStub(channel)
    found = refusal(lambda: stub.Complete(completion(prompt="x" * 5_000_000)))
    assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, "")
    assert "larger" in found.message


def test_rejections_do_not_quote_the_prompt(channel: grpc.Channel) -> None:
    secret = "my secret diary"
    stub = rpc.ChatServiceStub(channel)
    output = pb.ChatMessage(role=pb.ROLE_USER, content=secret)
    for request in (chat(messages=[output], n=0), chat(messages=[output], model=secret)):
        found = refusal(lambda request=request: stub.Chat(request))  # type: ignore[misc]
        assert secret not in str(found) and secret not in repr(found)
