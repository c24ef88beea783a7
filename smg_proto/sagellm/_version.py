"""The version of the protocol, and how two peers agree on one."""

from dataclasses import dataclass

PROTOCOL_VERSION = "0.1"

# What the protocol promises not to change. It lists more than smg_proto.sagellm has.
_FROZEN = frozenset(
    {
        "CollectiveRequest",
        "CollectiveResponse",
        "CommGroupInfo",
        "CompressionConfig",
        "ErrorCode",
        "KVAllocateParams",
        "KVEvictParams",
        "KVEvictReason",
        "KVFreeParams",
        "KVHandle",
        "KVHookPayload",
        "KVMigrateParams",
        "KVPrefetchParams",
        "Metrics",
        "QuantizationConfig",
        "Request",
        "Response",
        "SparseConfig",
        "SpeculativeDecodingConfig",
        "StreamEvent",
        "StreamEventDelta",
        "StreamEventEnd",
        "StreamEventStart",
        "Timestamps",
    }
)
# The protocol keeps a second list of names with their version; the two do not quite agree.
_UNDATED = {"StreamEventStart", "StreamEventDelta", "StreamEventEnd"}
_DATED = (_FROZEN - _UNDATED) | {"KVHookEvent", "KVPriority", "P2PRecvRequest", "P2PSendRequest"}


@dataclass(frozen=True, order=True)
class ProtocolVersion:
    """A version of the protocol: MAJOR.MINOR."""

    major: int
    minor: int

    @classmethod
    def parse(cls, version_str: str) -> "ProtocolVersion":
        """Read `0.1`; blanks around it are allowed. Raises ValueError for any other form."""
        try:
            major, minor = map(int, version_str.split("."))
        except ValueError:
            raise ValueError(
                f"{version_str!r} is not a protocol version: write MAJOR.MINOR, such as '0.1'"
            ) from None
        return cls(major, minor)

    def is_compatible_with(self, other: "ProtocolVersion") -> bool:
        """Can a server of this version serve a client of the other one."""
        return self.major == other.major and self.minor >= other.minor

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def negotiate_version(client_version: str) -> ProtocolVersion:
    """The version to speak with a client that asks for `client_version`: always this one's.

    Raises ValueError when the client's major number is another one, or it is newer.
    """
    server, client = ProtocolVersion.parse(PROTOCOL_VERSION), ProtocolVersion.parse(client_version)
    if not server.is_compatible_with(client):
        raise ValueError(
            f"the client asks for protocol {client}, this server speaks {server}: "
            f"use a client of {server.major}.{server.minor} or older, with the same major number"
        )
    return server


def is_interface_frozen(name: str) -> bool:
    """Does the protocol promise not to change the type of this name."""
    return name in _FROZEN


def get_interface_since_version(name: str) -> str | None:
    """The version that a promise about this name dates from; None: there is none."""
    return PROTOCOL_VERSION if name in _DATED else None
