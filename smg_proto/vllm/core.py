"""What calls of sync and async clients share: settings, metadata, and the plan of a call."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from typing_extensions import Self

from smg_proto.vllm import log, telemetry
from smg_proto.vllm.build import Asked, CompletionParams, Plan, build, check_request
from smg_proto.vllm.calls import Unary
from smg_proto.vllm.connection import Address, AsyncToken, check_token, check_token_value
from smg_proto.vllm.decode import TokenDecoder
from smg_proto.vllm.errors import Metadata, VLLMGrpcClosedError, VLLMGrpcValidationError
from smg_proto.vllm.options import CALL_PARAMS, Attempts, CallParams, Options, merge_metadata, split
from smg_proto.vllm.server_results import ModelInfo

ChannelT = TypeVar("ChannelT")
MODEL_PATIENCE = 5.0  # seconds for asking the model's name, which is only a label


class Host(Generic[ChannelT]):
    """The server that a client and all its `with_options` copies talk to, over one channel."""

    def __init__(self, where: Address, given: ChannelT | None, spans: bool) -> None:
        self.address = where
        self.given = given  # a channel of the caller's, which is not ours to close
        self.closed = False
        self.model: ModelInfo | None = None
        self.nameless = False  # the server did not tell its model's name; it is not asked again
        self.telemetry: telemetry.Telemetry | None = telemetry.of(where.target, spans)

    def closed_error(self) -> VLLMGrpcClosedError | None:
        return VLLMGrpcClosedError("the client has been closed") if self.closed else None

    def check(self) -> None:
        if self.closed:
            raise VLLMGrpcClosedError("the client has been closed; make a new one")

    @property
    def model_name(self) -> str:
        return self.model.id if self.model is not None else ""


class TransportCore(Generic[ChannelT]):
    """How a client makes its calls, as far as nothing has to be waited for."""

    awaits_token = False

    def __init__(
        self,
        host: Host[ChannelT],
        options: Options,
        decoder: TokenDecoder | None,
        token: AsyncToken | None,
    ) -> None:
        self.host = host
        self.options = options
        self.decoder = decoder
        self.token = token
        self._check_token()

    def _check_token(self) -> None:
        where = None if self.host.given is not None else self.host.address
        check_token(self.token, where, may_await=self.awaits_token)

    def changed(self, params: Mapping[str, object]) -> Self:
        """The same over the same channel, with other settings."""
        call, rest = split(params)
        other = copy.copy(self)
        other.options = self.options.changed(call)
        for name, value in rest.items():
            if name not in ("decoder", "token"):
                raise VLLMGrpcValidationError(name, "is no option of a client")
            setattr(other, name, value)
        other._check_token()
        return other

    def options_of(self, params: CallParams) -> Options:
        """The settings of one call."""
        self.host.check()
        unknown = params.keys() - CALL_PARAMS
        if unknown:
            raise VLLMGrpcValidationError(min(unknown), "there is no such parameter")
        return self.options.changed(params)

    def attempts(
        self, options: Options, limit: float | None, request_id: str | None = None
    ) -> Attempts:
        return Attempts(options, limit, target=self.host.address.target, request_id=request_id)

    def unary_attempts(self, call: Unary[Any], params: CallParams) -> Attempts:
        options = self.options_of(params)
        limit = options.timeout.call
        if limit is not None and "timeout" not in params:
            limit = max(limit, call.at_least)
        if not call.repeatable:
            options = replace(options, max_retries=0)
        log.unary(call.rpc)
        return self.attempts(options, limit, call.request_id)

    def check(
        self, stream: object, params: CompletionParams
    ) -> tuple[CallParams, Asked, TokenDecoder | None]:
        """The arguments of `completions.create`, without the prompt."""
        self.host.check()
        if not isinstance(stream, bool):
            raise VLLMGrpcValidationError("stream", "must be True or False")
        given: dict[str, object] = dict(params)
        decoder = given.pop("decoder", None) or self.decoder
        if decoder is not None and not isinstance(decoder, TokenDecoder):
            raise VLLMGrpcValidationError("decoder", "must be a TokenDecoder")
        call, asked = check_request(given)
        return call, asked, decoder

    def plan(
        self,
        prompt: object,
        call: CallParams,
        asked: Asked,
        decoder: TokenDecoder | None,
        stream: bool,
    ) -> Plan:
        """Everything about a completion before its first byte is sent."""
        host, info = self.host, self.host.model
        defaults = info.default_sampling_params if info is not None else {}
        plan = build(
            prompt,
            asked,
            stream=stream,
            options=self.options.changed(call),
            decoder=decoder,
            defaults=defaults if asked.params.use_model_defaults else {},
        )
        plan.metadata = plan.options.metadata
        if host.telemetry is not None:
            plan.span = host.telemetry.completion(plan.asked, plan.model or host.model_name)
            if plan.span is not None:
                plan.metadata = merge_metadata(plan.span.metadata(), plan.metadata)
        for part in plan.parts:
            log.generate(part.request)
        return plan

    def bearer(self, token: object, metadata: Metadata) -> Metadata:
        """The metadata with the token, unless the caller has set the same header by hand."""
        header = ("authorization", f"Bearer {check_token_value(token)}")
        return merge_metadata((header,), metadata)
