"""GenerateService of sagellm.v1, served by a vLLM engine through smg_proto.vllm.

async with AsyncVLLMGrpcClient("localhost", 50051) as client:
    servicer = GenerateServicer(client, await TokenDecoder.afrom_client(client))
    server = grpc.aio.server()
    sagellm_pb2_grpc.add_GenerateServiceServicer_to_server(servicer, server)
"""

import logging
import time
from collections.abc import AsyncIterator, Collection
from typing import Any, NoReturn

import grpc
from pydantic import ValidationError

from smg_proto import sagellm_pb2 as pb
from smg_proto import sagellm_pb2_grpc
from smg_proto.sagellm._bridge import WITHOUT_EFFECT, BridgeError, names
from smg_proto.sagellm._events import StreamEvent, StreamEventEnd
from smg_proto.sagellm._models import Request
from smg_proto.sagellm._vllm import create_arguments
from smg_proto.sagellm._vllm_events import astream_events, response_from_events
from smg_proto.sagellm._wire import WireError
from smg_proto.vllm import AsyncVLLMGrpcClient, TokenDecoder, VLLMGrpcError

log = logging.getLogger("smg_proto.sagellm")
Context = grpc.aio.ServicerContext[Any, Any]


class GenerateServicer(sagellm_pb2_grpc.GenerateServiceServicer):
    """Converts requests for vLLM, and its chunks into events with measured metrics.

    models: the model names to accept; empty accepts any. Requests without a model are always
    accepted. drop: fields of a request without a counterpart in vLLM to ignore.
    """

    def __init__(
        self,
        client: AsyncVLLMGrpcClient,
        decoder: TokenDecoder,
        *,
        engine_id: str = "vllm",
        models: Collection[str] = (),
        drop: Collection[str] = (),
    ) -> None:
        self._client = client
        self._decoder = decoder
        self._engine_id = engine_id
        self._models = names("models", models)
        self._drop = WITHOUT_EFFECT | names("drop", drop)  # no effect by the contract, or wanted

    async def Generate(self, request: pb.Request, context: Context) -> pb.Response:
        events = [event async for event in self._events(request, context)]
        await _fail_if_failed(events[-1], context)
        return response_from_events(events).to_proto()

    async def StreamGenerate(
        self, request: pb.Request, context: Context
    ) -> AsyncIterator[pb.StreamEvent]:
        async for event in self._events(request, context):
            yield event.to_proto()
            await _fail_if_failed(event, context)

    async def _events(self, message: pb.Request, context: Context) -> AsyncIterator[StreamEvent]:
        started = time.perf_counter()
        request, arguments = await self._read(message, context)
        try:
            chunks = await self._client.completions.create(
                stream=True, decoder=self._decoder, **arguments
            )
            async with chunks:
                async for event in astream_events(
                    chunks, request, engine_id=self._engine_id, started=started
                ):
                    yield event
        except VLLMGrpcError as error:
            await _abort(context, error.code or "UNKNOWN", error.details or error.message)

    async def _read(self, message: pb.Request, context: Context) -> tuple[Request, dict[str, Any]]:
        """The request, and the client's arguments. Ends the call if the request is invalid."""
        try:
            request = Request.from_proto(message, warn=False)
            arguments = create_arguments(
                request.model_copy(update={"stream": True}), drop=self._drop
            )
        except ValidationError as error:
            problems = (f"{_place(e['loc'])}: {e['msg']}" for e in error.errors())
            await _abort(context, "INVALID_ARGUMENT", "; ".join(problems))
        except WireError as error:
            await _abort(context, "INVALID_ARGUMENT", str(error))
        except BridgeError as error:
            await _abort(context, "UNIMPLEMENTED", str(error))
        if unknown := request.unknown():
            log.info("unknown fields kept fields=%s", "; ".join(unknown[:10]))
        if self._models and request.model and request.model not in self._models:
            await _abort(context, "NOT_FOUND", "model: not served here")
        return request, arguments


def _place(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place))


async def _fail_if_failed(event: StreamEvent, context: Context) -> None:
    """End the call with the status of an `end` event that has an error."""
    if isinstance(event, StreamEventEnd) and event.error is not None:
        name = event.error.code.name
        name = "UNIMPLEMENTED" if name == "NOT_IMPLEMENTED" else name
        await _abort(context, name, event.error.message)


async def _abort(context: Context, status: str, details: str) -> NoReturn:
    await context.abort(grpc.StatusCode[status], details)
    raise AssertionError("abort raises")
