"""Header values that HTTP and gRPC can both carry."""

from collections.abc import Mapping

# gRPC accepts 8 KiB of metadata by default; one value must not use all of it.
MAX_HEADER_BYTES = 1024


def is_printable(value: str) -> bool:
    """Whether both sides can carry a value: printable ASCII."""
    return value.isascii() and value.isprintable()


def header(headers: Mapping[str, str], name: str) -> str:
    """A header of the gateway; empty if it is missing or gRPC cannot carry it."""
    value = headers.get(name, "")
    return value if is_printable(value) and len(value) <= MAX_HEADER_BYTES else ""
