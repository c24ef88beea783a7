"""Harmless calls that show which RPCs a server without reflection has.

The name of an RPC decides how it is probed. A read-only RPC is called with an empty request. An RPC
that would use the engine is called with bytes that are not a message: a server that has the RPC
cannot parse them and does nothing. An RPC that changes state is never called.
"""

from dataclasses import dataclass

# Methods that only read, and accept an empty request.
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
# Methods that use the engine once they can parse their request, and change no lasting state.
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
# A tag of wire type 7, which does not exist: every parser rejects it.
NOT_A_MESSAGE = b"\x0f\x0f\x0f"
# A server that does not return UNIMPLEMENTED for this one does not return it for any RPC.
UNKNOWN_RPC = "/smg_proto.Nothing/Nothing"


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a call."""

    code: str
    """The name of the gRPC status."""
    details: str = ""
    data: bytes = b""
    """The first message."""

    @property
    def has_rpc(self) -> bool:
        return self.code != "UNIMPLEMENTED"
