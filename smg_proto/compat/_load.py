"""Loads contracts from files, packages, git revisions and servers."""

import stat
from collections.abc import Sequence
from pathlib import Path

from smg_proto.compat._contract import Contract
from smg_proto.compat._files import ContractError, by_name, parse, read_file
from smg_proto.compat._limits import MAX_DESCRIPTORS_BYTES

SPECS = """\
a directory of .proto files, a FileDescriptorSet file, a wheel, pypi:NAME==VERSION,
crate:NAME@VERSION, git:REVISION[:FOLDER], self (this package) or grpc://HOST:PORT
(a running server, by reflection)"""
_HINT = f"give {' '.join(SPECS.split())}"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the first bytes of a ZIP, and of an empty one


def load(
    spec: str | Path,
    *,
    include: Sequence[str | Path] = (),
    exclude: Sequence[str] = (),
    foreign: Sequence[str] | None = None,
    keep_going: bool = False,
) -> Contract:
    """Load the contract that a spec names. ContractError says why it cannot be read.

    include: folders or package specs to search for missing imports.
    exclude: patterns of proto files or folders to leave out.
    foreign: prefixes of packages not to compare, instead of google. and grpc.
    keep_going: leave out files that do not compile; the contract lists them as `skipped`.
    """
    text, files = str(spec), None
    match text.partition(":"):
        case "self", "", "":
            from smg_proto import descriptor_set

            return Contract(descriptor_set(), "self", foreign=foreign)
        case "grpc", ":", address:
            from smg_proto.compat._server import Server

            with Server(address.removeprefix("//")) as server:
                return server.contract()
        case "", "", "":
            raise ContractError(f"empty contract name; {_HINT}")
        case "pypi" | "crate" | "git", ":", _:
            pass
        case _:
            if _is_descriptors(Path(text), text):
                files = parse(read_file(Path(text), MAX_DESCRIPTORS_BYTES, text), text)
                if not (include or exclude or keep_going):
                    return Contract(files, text, foreign=foreign)
    # Imported here, because most comparisons need neither archives nor compilers.
    from smg_proto.compat._sources import Sources

    sources = Sources(text, [str(one) for one in include], exclude, foreign, keep_going)
    return sources.contract() if files is None else sources.described(by_name(files.file, text))


def _is_descriptors(path: Path, origin: str) -> bool:
    """Whether the path is a file and not an archive. ContractError if it cannot be read."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ContractError(f"{origin}: {reason}; {_HINT}") from error
    if stat.S_ISDIR(mode):
        return False
    if not stat.S_ISREG(mode):
        raise ContractError(f"{origin}: neither a regular file nor a folder; {_HINT}")
    return (
        path.suffix not in (".whl", ".crate")
        and read_file(path, MAX_DESCRIPTORS_BYTES, origin, first=4) not in _ZIP
    )


def release_of(spec: str) -> str | None:
    """The version that a spec names, if any."""
    if spec == "self":
        from smg_proto import __version__

        return __version__
    kind, _, words = spec.partition(":")
    mark = {"pypi": "==", "crate": "@"}.get(kind)
    return (words.partition(mark)[2] or None) if mark else None
