"""Reading a contract from wherever it is: files, packages, git revisions, servers."""

import stat
from collections.abc import Sequence
from pathlib import Path

from smg_proto.compat._contract import Contract
from smg_proto.compat._files import ContractError, parse, read_file
from smg_proto.compat._limits import MAX_DESCRIPTORS_BYTES

SPECS = """\
a directory of .proto files, a FileDescriptorSet file, a wheel, pypi:NAME==VERSION,
crate:NAME@VERSION, git:REVISION[:FOLDER], self (this package) or grpc://HOST:PORT
(a running server, by reflection)"""
_HINT = f"give {' '.join(SPECS.split())}"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # how an archive begins, and an empty one


def load(
    spec: str | Path,
    *,
    include: Sequence[str | Path] = (),
    exclude: Sequence[str] = (),
    foreign: Sequence[str] | None = None,
    keep_going: bool = False,
) -> Contract:
    """The contract that a spec names; ContractError says why it cannot be read.

    include: where imports are found that are not in it: folders, or specs of packages.
    exclude: patterns of paths of proto files, or of folders, that are left out.
    foreign: prefixes of packages that are not compared, in place of google. and grpc.
    keep_going: leave out files that do not compile; `skipped` of the contract names them.
    """
    text = str(spec)
    match text.partition(":"):
        case "self", "", "":
            from smg_proto import descriptor_set

            return Contract(descriptor_set(), "self", foreign=foreign)
        case "grpc", ":", address:
            from smg_proto.compat._server import Server

            with Server(address.removeprefix("//")) as server:
                return server.contract()
        case "", "", "":
            raise ContractError(f"an empty name; {_HINT}")
        case "pypi" | "crate" | "git", ":", _:
            pass
        case _:
            if _is_descriptors(Path(text), text):
                data = read_file(Path(text), MAX_DESCRIPTORS_BYTES, text)
                return Contract(parse(data, text), text, foreign=foreign)
    # What reads archives and runs compilers is imported only where it is needed.
    from smg_proto.compat._sources import Sources

    return Sources(text, [str(one) for one in include], exclude, foreign, keep_going).contract()


def _is_descriptors(path: Path, origin: str) -> bool:
    """A file that is no archive; ContractError where there is nothing to read."""
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
    """The version that a spec names, None where it names none."""
    if spec == "self":
        from smg_proto import __version__

        return __version__
    kind, _, words = spec.partition(":")
    mark = {"pypi": "==", "crate": "@"}.get(kind)
    return (words.partition(mark)[2] or None) if mark else None
