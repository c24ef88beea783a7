"""The version of the protocol, and its negotiation."""

from dataclasses import dataclass

PROTOCOL_VERSION = "0.1"

# Names that the protocol promises not to change, including some that smg_proto.sagellm lacks.
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
# The protocol has a second list, of names with their version, which differs slightly.
_UNDATED = {"StreamEventStart", "StreamEventDelta", "StreamEventEnd"}
_DATED = (_FROZEN - _UNDATED) | {"KVHookEvent", "KVPriority", "P2PRecvRequest", "P2PSendRequest"}


@dataclass(frozen=True, order=True)
class ProtocolVersion:
    """A version of the protocol: MAJOR.MINOR."""

    major: int
    minor: int

    @classmethod
    def parse(cls, version_str: str) -> "ProtocolVersion":
        """Parse `0.1`, with optional spaces around it. ValueError for any other form."""
        try:
            major, minor = map(int, version_str.split("."))
        except ValueError:
            raise ValueError(
                f"invalid protocol version {version_str!r}: use MAJOR.MINOR, such as '0.1'"
            ) from None
        return cls(major, minor)

    def is_compatible_with(self, other: "ProtocolVersion") -> bool:
        """Whether a server of this version can serve a client of the other one."""
        return self.major == other.major and self.minor >= other.minor

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def negotiate_version(client_version: str) -> ProtocolVersion:
    """The version to use with a client of `client_version`, which is always this package's.

    ValueError if the client has another major version or is newer.
    """
    server, client = ProtocolVersion.parse(PROTOCOL_VERSION), ProtocolVersion.parse(client_version)
    if not server.is_compatible_with(client):
        raise ValueError(
            f"incompatible protocol version {client}: this server has {server}; "
            f"use a client of {server.major}.{server.minor} or older with the same major version"
        )
    return server


def is_interface_frozen(name: str) -> bool:
    """Whether the protocol promises not to change the type of this name."""
    return name in _FROZEN


def get_interface_since_version(name: str) -> str | None:
    """The version since which the protocol promises this name; None if it does not."""
    return PROTOCOL_VERSION if name in _DATED else None
