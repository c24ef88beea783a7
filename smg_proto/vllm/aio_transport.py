"""Async calls: tokens, retries, readers."""

import asyncio
import inspect
from typing import Any, TypeVar
from weakref import WeakSet

import grpc

from smg_proto import vllm_engine_pb2 as pb
from smg_proto import vllm_engine_pb2_grpc
from smg_proto.vllm import calls
from smg_proto.vllm.aio_reader import AsyncReader
from smg_proto.vllm.build import Plan
from smg_proto.vllm.calls import Unary
from smg_proto.vllm.core import MODEL_PATIENCE, TransportCore
from smg_proto.vllm.errors import Metadata, VLLMGrpcClosedError, VLLMGrpcError
from smg_proto.vllm.options import Attempts, CallParams, Options
from smg_proto.vllm.reading import AsyncCall, Waits
from smg_proto.vllm.server_results import ModelInfo

T = TypeVar("T")


class AsyncChannel:
    """A channel that is opened by the first call, since it belongs to the running event loop."""

    def __init__(self) -> None:
        self.channel: grpc.aio.Channel | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stub: Any = None
        self.streams: WeakSet[Any] = WeakSet()  # calls that may still be running

    async def close(self) -> None:
        # Some releases of gRPC leave streams running that nobody is just waiting for.
        for call in list(self.streams):
            call.cancel()
        if self.channel is not None:
            await self.channel.close()


class AsyncTransport(TransportCore[grpc.aio.Channel]):
    awaits_token = True
    opened: AsyncChannel

    def stub(self) -> Any:
        """The stub, whose channel is opened here if need be."""
        self.host.check()
        opened, loop = self.opened, asyncio.get_running_loop()
        if opened.stub is None:
            opened.loop = loop
            opened.channel = self.host.given or self.host.address.aio_channel()
            opened.stub = vllm_engine_pb2_grpc.VllmEngineStub(opened.channel)
        elif opened.loop is not loop:
            raise VLLMGrpcError("the client belongs to another event loop; make one for each")
        return opened.stub

    async def metadata(self, metadata: Metadata) -> Metadata:
        token: Any = self.token
        if token is None:
            return metadata
        if callable(token):
            token = token()
            if inspect.isawaitable(token):
                token = await token
        return self.bearer(token, metadata)

    async def unary(self, call: Unary[T], params: CallParams) -> T:
        attempts = self.unary_attempts(call, params)
        options = attempts.options
        while True:
            method = getattr(self.stub(), call.rpc)
            try:
                answer = await method(
                    call.request,
                    timeout=attempts.remaining(),
                    metadata=await self.metadata(options.metadata),
                    wait_for_ready=options.wait_for_ready,
                )
            except grpc.RpcError as cause:
                await self.pause(attempts, cause)
            except asyncio.CancelledError as cause:
                # Closing the channel cancels its calls; a cancelled task looks the same.
                task = asyncio.current_task()
                if self.host.closed and not (task and getattr(task, "cancelling", int)()):
                    raise VLLMGrpcClosedError("the client has been closed") from cause
                raise
            else:
                return call.read(answer)

    async def pause(self, attempts: Attempts, cause: grpc.RpcError) -> None:
        """Wait for the next try; raise if there is none."""
        error = self.host.closed_error() or attempts.error(cause)
        delay = attempts.delay(error)
        if delay is None:
            raise error from cause
        await asyncio.sleep(delay)

    async def many(self, plans: list[Unary[T]], params: CallParams) -> list[T]:
        """All at once; the first that fails ends the others."""
        tasks = [asyncio.ensure_future(self.unary(plan, params)) for plan in plans]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def reader(
        self,
        rpc: str,
        request: Any,
        options: Options,
        waits: Waits,
        metadata: Metadata,
        request_id: str | None = None,
    ) -> AsyncReader[Any]:
        """Begin a streaming call."""

        async def start(deadline: float | None) -> AsyncCall[Any]:
            call: AsyncCall[Any] = getattr(self.stub(), rpc)(
                request,
                timeout=deadline,
                metadata=await self.metadata(metadata),
                wait_for_ready=options.wait_for_ready,
            )
            self.opened.streams.add(call)
            return call

        attempts = self.attempts(options, waits.whole, request_id)
        reader: AsyncReader[Any] = AsyncReader(start, attempts, waits, self.host.closed_error)
        await reader.begin()
        return reader

    async def generate(self, plan: Plan, waits: Waits) -> list[AsyncReader[pb.GenerateResponse]]:
        """Begin all calls of a completion."""
        readers: list[AsyncReader[pb.GenerateResponse]] = []
        try:
            for part in plan.parts:
                request_id = part.request.request_id
                readers.append(
                    await self.reader(
                        "Generate", part.request, plan.options, waits, plan.metadata, request_id
                    )
                )
        except BaseException as error:
            for reader in readers:
                reader.close()
            plan.end(error)
            raise
        return readers

    async def model_info(self, params: CallParams) -> ModelInfo:
        self.host.model = await self.unary(calls.model_info(), params)
        return self.host.model

    async def model_name(self) -> str:
        """The name that results show; asked for once."""
        host = self.host
        if host.model is None and not host.nameless:
            try:
                await self.model_info({"timeout": MODEL_PATIENCE, "max_retries": 0})
            except VLLMGrpcError:
                host.nameless = True
        return host.model_name
