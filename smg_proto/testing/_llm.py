"""entity.grpc.LLMService over the built-in model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from smg_proto import llm_pb2, llm_pb2_grpc
from smg_proto.testing._generation import Sampling, generate
from smg_proto.testing._model import model


class FakeLLM(llm_pb2_grpc.LLMServiceServicer):
    """A prompt in, its continuation out, one token a message."""

    def __init__(self, *, token_delay: float = 0.0) -> None:
        self.token_delay = token_delay

    def add_to_server(self, server: grpc.aio.Server) -> None:
        llm_pb2_grpc.add_LLMServiceServicer_to_server(self, server)

    async def Generate(
        self, request: llm_pb2.GenerateRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        if wrong := _what_is_wrong(request):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, wrong)
        if request.model not in ("", model().name):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the only model is {model().name!r}")
        prompt = model().tokenizer.encode(request.prompt)
        if len(prompt) >= model().context_length:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the prompt is too long")
        sampling = Sampling(
            max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
            temperature=request.temperature if request.HasField("temperature") else 1.0,
            top_p=request.top_p if request.HasField("top_p") else 1.0,
            stop=tuple(request.stop),
            seed=request.seed,
        )
        for made, piece in enumerate(generate(model(), prompt, sampling), start=1):
            await asyncio.sleep(self.token_delay)
            reply = llm_pb2.GenerateResponse(token=piece.text)
            if piece.finish_reason:
                reply.finish_reason = piece.finish_reason
                reply.prompt_tokens, reply.completion_tokens = len(prompt), made
            if reply.ListFields():
                yield reply


def _what_is_wrong(request: llm_pb2.GenerateRequest) -> str:
    if not request.prompt:
        return "prompt is required"
    if request.HasField("max_tokens") and request.max_tokens < 1:
        return "max_tokens must be at least 1"
    if not 0 <= request.temperature <= 2:
        return "temperature must be from 0 to 2"
    if request.HasField("top_p") and not 0 < request.top_p <= 1:
        return "top_p must be above 0 and at most 1"
    return "stop must not have empty entries" if "" in request.stop else ""
