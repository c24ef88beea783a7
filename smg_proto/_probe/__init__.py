"""Harmless calls that tell which RPCs a server has, if it has no reflection.

An RPC is judged by its name. One that only reads is called with an empty request. One that would
do work is called with bytes that are no message: a server that has it cannot read them, and does
nothing. One that changes something is never called, and nothing is said of it.
"""

from dataclasses import dataclass

# By the method's own name: what only reads, and answers an empty request.
READS = frozenset(
    (
        "HealthCheck",
        "GetServerInfo",
        "GetModelInfo",
        "GetLoads",
        "GetLoad",
        "ListModels",
        "ListLoras",
        "ListLoadedLoRAAdapters",
        "GetKvEventSources",
        "IsPaused",
        "IsSleeping",
        "GetWeightVersion",
        "Health",
        "GetCapabilities",
    )
)
# What works when it can read its request, and changes nothing that outlasts it.
WORKS = frozenset(
    (
        "Generate",
        "GenerateStream",
        "StreamGenerate",
        "Embed",
        "Encode",
        "Classify",
        "Score",
        "Rerank",
        "Tokenize",
        "Detokenize",
        "TextGenerate",
        "TextEmbed",
        "Complete",
        "StreamComplete",
        "Chat",
        "StreamChat",
        "CreateMessage",
        "StreamMessage",
        "ChatComplete",
        "OpenAIEmbed",
        "OpenAIClassify",
        "GetTokenizer",
        "SubscribeKvEvents",
        "WatchEngineState",
    )
)
# A tag of wire type 7, which there is not: no parser takes it.
NOT_A_MESSAGE = b"\x0f\x0f\x0f"
# A server that answers this one otherwise than UNIMPLEMENTED answers so to all.
NOBODY_HAS_THIS = "/smg_proto.Nothing/Nothing"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a server has answered a call."""

    code: str
    """The name of the gRPC status."""
    details: str = ""
    data: bytes = b""
    """The first message."""

    @property
    def has_rpc(self) -> bool:
        return self.code != "UNIMPLEMENTED"
