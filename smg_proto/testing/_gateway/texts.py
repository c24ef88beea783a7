"""smg.v1.EmbeddingService, TokenizerService and ParserService."""

import math
import uuid
from collections.abc import Sequence

import grpc

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto._serving.paging import page
from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway.conversation import usage
from smg_proto.testing._gateway.core import Call, Context, Core, not_found
from smg_proto.testing._gateway.output import join, parse
from smg_proto.testing._model import EMBEDDING_SIZE

_REASONING_PARSER = "qwen3"
_TOOL_PARSER = "qwen"
_MAX_DIMENSIONS = 4096
# A text's class is the word that it is closest to.
_CLASSES = ("gateway", "worker", "client")


class EmbeddingService(smg_pb2_grpc.EmbeddingServiceServicer):
    """Embeddings of the built-in model. Classes and ranks follow from the closeness of vectors."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        return await self._core.plain("Embed", request, context, self._embed)

    def _embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        checks.check(
            request,
            self._core.model,
            *_bad_inputs(request.inputs),
            FieldViolation("dimensions", f"must be at most {_MAX_DIMENSIONS}")
            if request.dimensions > _MAX_DIMENSIONS
            else None,
        )
        size = request.dimensions or EMBEDDING_SIZE
        tokens = [self._ids(given) for given in request.inputs]
        return pb.EmbedResponse(
            model=request.model,
            embeddings=[pb.Embedding(values=self._core.model.embed(ids, size)) for ids in tokens],
            usage=usage(sum(map(len, tokens)), 0),
            pipeline=_report(),
        )

    def _ids(self, given: pb.EmbedInput) -> list[int]:
        if given.HasField("token_ids"):
            return list(given.token_ids.ids)
        return self._core.model.tokenizer.encode(given.text)

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        return await self._core.plain("Classify", request, context, self._classify)

    def _classify(self, request: pb.ClassifyRequest) -> pb.ClassifyResponse:
        checks.check(request, self._core.model, *_bad_inputs(request.inputs))
        tokens = [self._ids(given) for given in request.inputs]
        decode = self._core.model.tokenizer.decode
        return pb.ClassifyResponse(
            model=request.model,
            results=[self._class_of(decode(ids)) for ids in tokens],
            usage=usage(sum(map(len, tokens)), 0),
            pipeline=_report(),
        )

    def _class_of(self, text: str) -> pb.Classification:
        weights = [math.exp(4 * self._closeness(text, word)) for word in _CLASSES]
        shares = [weight / sum(weights) for weight in weights]
        return pb.Classification(
            label=_CLASSES[shares.index(max(shares))].upper(), probabilities=shares
        )

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        return await self._core.plain("Rerank", request, context, self._rerank)

    def _rerank(self, request: pb.RerankRequest) -> pb.RerankResponse:
        checks.check(
            request,
            self._core.model,
            checks.missing("query", request.query),
            *_bad_texts("documents", [document.text for document in request.documents]),
        )
        scores = [self._closeness(request.query, document.text) for document in request.documents]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        count = request.top_n if request.HasField("top_n") else len(order)
        return pb.RerankResponse(
            model=request.model,
            results=[pb.RerankResult(index=n, score=scores[n]) for n in order[:count]],
            pipeline=_report(),
        )

    def _closeness(self, left: str, right: str) -> float:
        model = self._core.model
        one, other = (
            model.embed(model.tokenizer.encode(f" {text.strip()}")) for text in (left, right)
        )
        return sum(a * b for a, b in zip(one, other, strict=True))


def _bad_texts(field: str, texts: list[str]) -> list[FieldViolation | None]:
    empty = [
        FieldViolation(f"{field}[{n}]", "is empty") for n, text in enumerate(texts) if not text
    ]
    return [checks.missing(field, texts), *empty]


def _bad_inputs(inputs: Sequence[pb.EmbedInput]) -> list[FieldViolation | None]:
    empty = [
        FieldViolation(f"inputs[{n}]", "is empty")
        for n, given in enumerate(inputs)
        if not given.text and not given.token_ids.ids
    ]
    return [checks.missing("inputs", inputs), *empty]


def _report() -> pb.PipelineReport:
    return Call("", "", None, None).report()


class TokenizerService(smg_pb2_grpc.TokenizerServiceServicer):
    """The built-in model's tokenizer, and a list in memory of others, which have only names."""

    def __init__(self, core: Core) -> None:
        self._core = core
        built_in = pb.Tokenizer(
            id=str(uuid.uuid4()),
            name=core.model.name,
            source="embedded",
            vocab_size=core.model.tokenizer.vocab_size,
        )
        self._tokenizers = {built_in.id: built_in}

    async def ListTokenizers(
        self, request: pb.ListTokenizersRequest, context: Context
    ) -> pb.ListTokenizersResponse:
        def answer(request: pb.ListTokenizersRequest) -> pb.ListTokenizersResponse:
            every = list(self._tokenizers.values())
            entries, following = page(every, request.page_size, request.page_token)
            return pb.ListTokenizersResponse(tokenizers=entries, next_page_token=following)

        return await self._core.plain("ListTokenizers", request, context, answer)

    async def GetTokenizer(self, request: pb.GetTokenizerRequest, context: Context) -> pb.Tokenizer:
        return await self._core.plain("GetTokenizer", request, context, lambda r: self._find(r.id))

    async def GetTokenizerStatus(
        self, request: pb.GetTokenizerStatusRequest, context: Context
    ) -> pb.TokenizerStatus:
        def answer(request: pb.GetTokenizerStatusRequest) -> pb.TokenizerStatus:
            found = self._find(request.id)
            return pb.TokenizerStatus(
                id=found.id,
                state=pb.TOKENIZER_STATE_READY,
                vocab_size=found.vocab_size if found.HasField("vocab_size") else None,
            )

        return await self._core.plain("GetTokenizerStatus", request, context, answer)

    async def CreateTokenizer(
        self, request: pb.CreateTokenizerRequest, context: Context
    ) -> pb.TokenizerStatus:
        def answer(request: pb.CreateTokenizerRequest) -> pb.TokenizerStatus:
            for name in ("name", "source"):
                if not getattr(request, name):
                    raise invalid(FieldViolation(name, "is required"))
            if any(found.name == request.name for found in self._tokenizers.values()):
                raise SmgError(
                    grpc.StatusCode.ALREADY_EXISTS,
                    "a tokenizer with this name exists",
                    reason="TOKENIZER_ALREADY_EXISTS",
                )
            made = pb.Tokenizer(id=str(uuid.uuid4()), name=request.name, source=request.source)
            self._tokenizers[made.id] = made
            return pb.TokenizerStatus(id=made.id, state=pb.TOKENIZER_STATE_PENDING)

        return await self._core.plain("CreateTokenizer", request, context, answer)

    async def DeleteTokenizer(
        self, request: pb.DeleteTokenizerRequest, context: Context
    ) -> pb.DeleteTokenizerResponse:
        def answer(request: pb.DeleteTokenizerRequest) -> pb.DeleteTokenizerResponse:
            del self._tokenizers[self._find(request.id).id]
            return pb.DeleteTokenizerResponse()

        return await self._core.plain("DeleteTokenizer", request, context, answer)

    def _find(self, ident: str) -> pb.Tokenizer:
        if not ident:
            raise invalid(FieldViolation("id", "is required"))
        if ident not in self._tokenizers:
            raise not_found("TOKENIZER_NOT_FOUND", "no tokenizer has this id")
        return self._tokenizers[ident]

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        return await self._core.plain("Tokenize", request, context, self._tokenize)

    def _tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        self._check(request.model, checks.missing("texts", request.texts))
        tokenizer = self._core.model.tokenizer
        reply = pb.TokenizeResponse()
        for text in request.texts:
            ids = tokenizer.encode(text)
            reply.sequences.add(ids=ids)
            if request.return_pieces:
                pieces = [tokenizer.token_bytes(token, skip_special=False) for token in ids]
                reply.pieces.add(texts=[piece.decode(errors="replace") for piece in pieces])
        return reply

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        return await self._core.plain("Detokenize", request, context, self._detokenize)

    def _detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        self._check(request.model, checks.missing("sequences", request.sequences))
        skip = not request.HasField("skip_special_tokens") or request.skip_special_tokens
        decode = self._core.model.tokenizer.decode
        return pb.DetokenizeResponse(
            texts=[decode(sequence.ids, skip_special=skip) for sequence in request.sequences]
        )

    def _check(self, model: str, violation: FieldViolation | None) -> None:
        found = [v for v in (checks.missing("model", model), violation) if v is not None]
        if found:
            raise invalid(*found)
        if model != self._core.model.name:
            raise not_found("TOKENIZER_NOT_FOUND", "this model has no tokenizer")


class ParserService(smg_pb2_grpc.ParserServiceServicer):
    """The two supported parsers: "qwen3" for reasoning, "qwen" for tool calls."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def ParseReasoning(
        self, request: pb.ParseReasoningRequest, context: Context
    ) -> pb.ParseReasoningResponse:
        return await self._core.plain("ParseReasoning", request, context, self._reasoning)

    def _reasoning(self, request: pb.ParseReasoningRequest) -> pb.ParseReasoningResponse:
        _check_parser(request.parser, _REASONING_PARSER)
        parts = parse(request.text, reasoning=True)
        return pb.ParseReasoningResponse(
            content=join(parts, "text"), reasoning_content=join(parts, "reasoning")
        )

    async def ParseToolCalls(
        self, request: pb.ParseToolCallsRequest, context: Context
    ) -> pb.ParseToolCallsResponse:
        return await self._core.plain("ParseToolCalls", request, context, self._tool_calls)

    def _tool_calls(self, request: pb.ParseToolCallsRequest) -> pb.ParseToolCallsResponse:
        _check_parser(request.parser, _TOOL_PARSER)
        if violation := checks.no_mcp(list(request.tools)):
            raise invalid(violation)
        parts = parse(request.text, calls=True)
        return pb.ParseToolCallsResponse(
            content=join(parts, "text"),
            tool_calls=[
                pb.ToolCall(name=part.name, arguments=part.text)
                for part in parts
                if part.kind == "call"
            ],
        )


def _check_parser(name: str, known: str) -> None:
    if not name:
        raise invalid(FieldViolation("parser", "is required"))
    if name != known:
        raise not_found("PARSER_NOT_FOUND", f"unknown parser; use {known!r}")
