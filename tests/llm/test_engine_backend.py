"""LLMService over smg_proto.engine: any engine whose contract has text."""

import asyncio
from typing import Any

import grpc
import pytest
from engine.kit import fails, hangs, serving
from support import async_eventually

from smg_proto import llm_pb2, llm_pb2_grpc
from smg_proto import vllm_inference_pb2 as vllm
from smg_proto.engine import ParameterError
from smg_proto.errors import SmgError, from_rpc_error
from smg_proto.llm import EngineBackend, LLMService
from smg_proto.testing import run_vllm_engine

GENERATE = "/vllm.Inference/GenerateStream"


async def generate(target: str, contract: str, **fields: Any) -> list[llm_pb2.GenerateResponse]:
    service = LLMService(EngineBackend(target, contract=contract))
    server = grpc.aio.server()
    llm_pb2_grpc.add_LLMServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = llm_pb2.GenerateRequest(prompt="Once", **fields)
            call = llm_pb2_grpc.LLMServiceStub(channel).Generate(request, timeout=20)
            return [reply async for reply in call]
    finally:
        await server.stop(None)
        await service.aclose()


async def failure(target: str, contract: str, **fields: Any) -> SmgError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(target, contract, **fields)
    return from_rpc_error(caught.value)


async def test_text_and_counts_come_from_the_engine() -> None:
    info = vllm.GenerateResponse(prompt_info=vllm.PromptInfo(num_prompt_tokens=4))
    first, last = (
        vllm.GenerateResponse(outputs=vllm.SequenceOutput(text=text)) for text in (" upon", " a")
    )
    last.outputs.finish_info.num_output_tokens = 2
    last.outputs.finish_info.finish_reason = vllm.FinishInfo.LENGTH
    with serving({GENERATE: [info, first, last]}) as server:
        requested = {
            "max_tokens": 2,
            "temperature": 0.5,
            "seed": 3,
            "stop": ["x"],
            "request_id": "r",
        }
        replies = await generate(server.target, "vllm", **requested)
        sent = vllm.GenerateRequest.FromString(server.requests[GENERATE])
    assert [reply.token for reply in replies] == [" upon", " a", ""]
    end = replies[-1]
    assert (end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("length", 4, 2)
    assert (sent.text, sent.request_id, sent.temperature) == ("Once", "r", 0.5)
    assert (sent.stopping.max_new_tokens, list(sent.stopping.stop_strings)) == (2, ["x"])
    assert sent.sampling.seed == 3


@pytest.mark.parametrize(
    ("code", "reason"), [("INVALID_ARGUMENT", "INVALID_REQUEST"), ("UNAVAILABLE", "WORKER_ERROR")]
)
async def test_a_status_of_the_engine_is_returned_without_its_text(code: str, reason: str) -> None:
    with serving({GENERATE: fails(grpc.StatusCode[code], "sesame")}) as server:
        error = await failure(server.target, "vllm")
    assert (error.code, error.reason) == (grpc.StatusCode[code], reason)
    assert "sesame" not in str(error)


async def test_the_error_names_a_field_that_the_contract_cannot_express() -> None:
    with serving() as server:
        error = await failure(server.target, "vllm", request_id="two words")
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.field_violations] == ["request_id"]


async def test_a_contract_without_text_is_rejected() -> None:
    with run_vllm_engine() as address:
        error = await failure(address, "vllm.grpc.engine")
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        backend = EngineBackend(address)
        with pytest.raises(SmgError, match=r"\(WORKER_ERROR\): .* has no text"):
            await backend.generate(llm_pb2.GenerateRequest(prompt="Once")).__anext__()
        await backend.aclose()


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_the_request_ends_with_the_caller_and_with_the_backend(how: str) -> None:
    with serving({GENERATE: hangs}) as server:
        backend = EngineBackend(server.target, contract="vllm")
        pieces = backend.generate(llm_pb2.GenerateRequest(prompt="Once"))
        reading = asyncio.ensure_future(pieces.__anext__())
        await async_eventually(lambda: GENERATE in server.called)
        if how == "cancel":
            reading.cancel()
        else:
            await backend.aclose()
        await async_eventually(server.ended.is_set, "the call has ended at the engine", 5)
        with pytest.raises((SmgError, asyncio.CancelledError)):
            await reading
        await backend.aclose()


def test_an_invalid_option_fails_at_once() -> None:
    with pytest.raises(ParameterError):
        EngineBackend("localhost")
    with pytest.raises(TypeError):
        EngineBackend("localhost:1", colour="red")
