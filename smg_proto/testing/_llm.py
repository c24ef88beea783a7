"""entity.grpc.LLMService over the built-in model."""

import asyncio
from collections.abc import AsyncGenerator

import grpc

from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.llm import Piece
from smg_proto.llm_pb2 import GenerateRequest
from smg_proto.testing._generation import Sampling, generate
from smg_proto.testing._model import model


class ModelBackend:
    """Continues prompts with the built-in model, one piece per token."""

    def __init__(self, *, token_delay: float = 0.0) -> None:
        self.token_delay = token_delay

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        if request.model not in ("", model().name):
            message = f"the only model is {model().name!r}"
            raise SmgError(grpc.StatusCode.NOT_FOUND, message, reason="MODEL_NOT_FOUND")
        prompt = model().tokenizer.encode(request.prompt)
        if len(prompt) >= model().context_length:
            too_long = FieldViolation("prompt", "is too long")
            raise invalid(too_long, reason="CONTEXT_LENGTH_EXCEEDED")
        sampling = Sampling(
            max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
            temperature=request.temperature if request.HasField("temperature") else 1.0,
            top_p=request.top_p if request.HasField("top_p") else 1.0,
            stop=tuple(request.stop),
            seed=request.seed,
        )
        for made, piece in enumerate(generate(model(), prompt, sampling), start=1):
            await asyncio.sleep(self.token_delay)
            if piece.finish_reason:
                yield Piece(piece.text, piece.finish_reason, len(prompt), made)
            elif piece.text:
                yield Piece(piece.text)

    async def aclose(self) -> None:
        pass
