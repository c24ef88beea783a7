"""LLMService over an OpenAI-compatible URL."""

import grpc
from frontdoor.replay import Upstream, upstream

from smg_proto import llm_pb2, llm_pb2_grpc
from smg_proto.errors import from_rpc_error
from smg_proto.llm import AsyncLLMService, OpenAIBackend


async def generate(said: Upstream, **fields: object) -> list[llm_pb2.GenerateResponse]:
    service = AsyncLLMService(OpenAIBackend(f"{said.url}/v1", model="m", api_key="k"))
    server = grpc.aio.server()
    llm_pb2_grpc.add_LLMServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = llm_pb2.GenerateRequest(prompt="a", **fields)  # type: ignore[arg-type]
            return [r async for r in llm_pb2_grpc.LLMServiceStub(channel).Generate(request)]
    finally:
        await server.stop(None)
        await service.aclose()


async def test_text_and_counts_come_from_the_server() -> None:
    async with upstream() as said:
        said.replay("completion_stream_usage")
        replies = await generate(said, max_tokens=20, temperature=0.5, stop=["x"], seed=3)
        assert "".join(r.token for r in replies).startswith("one two three")
        end = replies[-1]
        assert (end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("stop", 12, 11)
        (asked,) = said.asked
        assert asked.headers["Authorization"] == "Bearer k"
        assert asked.body | {"prompt": "a", "model": "m", "max_tokens": 20} == asked.body
        assert (asked.body["temperature"], asked.body["stop"], asked.body["seed"]) == (
            0.5,
            ["x"],
            3,
        )


async def test_its_errors_are_typed_and_say_nothing_of_it() -> None:
    async with upstream() as said:
        said.answer(404, {"error": {"message": "sesame", "code": "model_not_found"}})
        try:
            await generate(said)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert "sesame" not in str(failure)
