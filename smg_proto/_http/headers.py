"""Header values: the one place that says which may cross from HTTP to gRPC and back."""

from collections.abc import Mapping

# gRPC takes 8 KiB of metadata by default; one value may not use them up.
MAX_HEADER_BYTES = 1024


def is_printable(value: str) -> bool:
    """Whether both sides can carry a value: visible ASCII and blanks."""
    return value.isascii() and value.isprintable()


def header(headers: Mapping[str, str], name: str) -> str:
    """A header of the gateway's; empty if it is not there, or is nothing that gRPC can carry."""
    value = headers.get(name, "")
    return value if is_printable(value) and len(value) <= MAX_HEADER_BYTES else ""
