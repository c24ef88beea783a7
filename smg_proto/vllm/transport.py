"""Sync calls: tokens, retries, readers."""

import time
from typing import Any, TypeVar

import grpc

from smg_proto import vllm_engine_pb2 as pb
from smg_proto import vllm_engine_pb2_grpc
from smg_proto.vllm import calls
from smg_proto.vllm.build import Plan
from smg_proto.vllm.calls import Unary
from smg_proto.vllm.connection import AsyncToken
from smg_proto.vllm.core import MODEL_PATIENCE, Host, TransportCore
from smg_proto.vllm.decode import TokenDecoder
from smg_proto.vllm.errors import Metadata, VLLMGrpcError
from smg_proto.vllm.options import Attempts, CallParams, Options
from smg_proto.vllm.reader import Reader
from smg_proto.vllm.reading import SyncCall, Waits
from smg_proto.vllm.server_results import ModelInfo

T = TypeVar("T")


class Transport(TransportCore[grpc.Channel]):
    def __init__(
        self,
        host: Host[grpc.Channel],
        options: Options,
        decoder: TokenDecoder | None,
        token: AsyncToken | None,
    ) -> None:
        super().__init__(host, options, decoder, token)
        self.channel: grpc.Channel = host.given or host.address.channel()
        self.stub: vllm_engine_pb2_grpc.VllmEngineStub = vllm_engine_pb2_grpc.VllmEngineStub(
            self.channel
        )

    def metadata(self, metadata: Metadata) -> Metadata:
        token = self.token
        if token is None:
            return metadata
        return self.bearer(token() if callable(token) else token, metadata)

    def unary(self, call: Unary[T], params: CallParams) -> T:
        return self.repeat(call, self.unary_attempts(call, params))

    def repeat(self, call: Unary[T], attempts: Attempts) -> T:
        """Call until it succeeds or may not be tried again."""
        method = getattr(self.stub, call.rpc)
        options = attempts.options
        while True:
            self.host.check()
            try:
                answer = method(
                    call.request,
                    timeout=attempts.remaining(),
                    metadata=self.metadata(options.metadata),
                    wait_for_ready=options.wait_for_ready,
                )
            except grpc.RpcError as cause:
                self.pause(attempts, cause)
            else:
                return call.read(answer)

    def pause(self, attempts: Attempts, cause: grpc.RpcError) -> None:
        """Wait for the next try; raise if there is none."""
        error = self.host.closed_error() or attempts.error(cause)
        delay = attempts.delay(error)
        if delay is None:
            raise error from cause
        time.sleep(delay)

    def many(self, plans: list[Unary[T]], params: CallParams) -> list[T]:
        """All at once; one that fails is tried again by itself."""
        tries = [self.unary_attempts(plan, params) for plan in plans]
        futures: list[Any] = []
        try:
            for plan, attempts in zip(plans, tries, strict=True):
                method = getattr(self.stub, plan.rpc)
                futures.append(
                    method.future(
                        plan.request,
                        timeout=attempts.remaining(),
                        metadata=self.metadata(attempts.options.metadata),
                        wait_for_ready=attempts.options.wait_for_ready,
                    )
                )
            answers: list[T] = []
            for plan, attempts, future in zip(plans, tries, futures, strict=True):
                try:
                    answers.append(plan.read(future.result()))
                except grpc.RpcError as cause:
                    self.pause(attempts, cause)
                    answers.append(self.repeat(plan, attempts))
            return answers
        finally:
            for future in futures:
                future.cancel()

    def reader(
        self,
        rpc: str,
        request: Any,
        options: Options,
        waits: Waits,
        metadata: Metadata,
        request_id: str | None = None,
    ) -> Reader[Any]:
        """Begin a streaming call."""
        method = getattr(self.stub, rpc)

        def start(deadline: float | None) -> SyncCall[Any]:
            self.host.check()
            call: SyncCall[Any] = method(
                request,
                timeout=deadline,
                metadata=self.metadata(metadata),
                wait_for_ready=options.wait_for_ready,
            )
            return call

        attempts = self.attempts(options, waits.whole, request_id)
        return Reader(start, attempts, waits, self.host.closed_error)

    def generate(self, plan: Plan, waits: Waits) -> list[Reader[pb.GenerateResponse]]:
        """Begin all calls of a completion."""
        readers: list[Reader[pb.GenerateResponse]] = []
        try:
            for part in plan.parts:
                request_id = part.request.request_id
                readers.append(
                    self.reader(
                        "Generate", part.request, plan.options, waits, plan.metadata, request_id
                    )
                )
        except BaseException as error:
            for reader in readers:
                reader.close()
            plan.end(error)
            raise
        return readers

    def model_info(self, params: CallParams) -> ModelInfo:
        self.host.model = self.unary(calls.model_info(), params)
        return self.host.model

    def model_name(self) -> str:
        """The name that results show; asked for once."""
        host = self.host
        if host.model is None and not host.nameless:
            try:
                self.model_info({"timeout": MODEL_PATIENCE, "max_retries": 0})
            except VLLMGrpcError:
                host.nameless = True
        return host.model_name
