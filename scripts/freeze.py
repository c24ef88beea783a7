#!/usr/bin/env python3
"""Check the frozen releases in tests/compat, or write one.

    scripts/freeze.py check                   check that they are intact and that proto/ keeps them
    scripts/freeze.py published VERSION ...   freeze wheels of the package index
    scripts/freeze.py upstream NAME ...       freeze what engines publish themselves (_upstream.py)

`check` also compares proto/ with this project's last release by `buf breaking`. scripts/release.py
freezes this project's releases. Exit status: 0 success, 1 check failed, 2 usage error.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import _venv

if TYPE_CHECKING:
    from _frozen import Frozen

sys.path.insert(0, str(_venv.ROOT))


def check() -> int:
    from _contract import contract
    from _frozen import Frozen

    import smg_proto

    frozen, files, version = Frozen.here(), smg_proto.descriptor_set(), smg_proto.__version__
    problems = [
        *frozen.defects(),
        *frozen.broken_promises(contract(files), version),
        *frozen.unaccepted(files, version),
    ]
    for problem in problems:
        print(f"freeze: {problem}", file=sys.stderr)
    if frozen.own and not _unbroken(frozen, frozen.own[-1]):
        problems.append("buf breaking")
    if not frozen.own:
        print("freeze: no release of this project yet; buf breaking has nothing to compare with")
    return 1 if problems else 0


def _unbroken(frozen: "Frozen", release: str) -> bool:
    """Whether `buf breaking` accepts proto/ against a release, without packages reset since."""
    from _frozen import RESET
    from _tools import program

    files = frozen.descriptors(release)
    kept = [file for file in files.file if file.package not in RESET.get(release, ())]
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, "image.binpb")
        image.write_bytes(type(files)(file=kept).SerializeToString())
        command = [program("buf"), "breaking", "--against", str(image)]
        return subprocess.run(command, cwd=_venv.ROOT).returncode == 0


def published(version: str) -> None:
    """Freeze a release that others published, from its wheel in an environment of its own."""
    from _contract import contract, facts
    from _frozen import WITH_VECTORS, Frozen
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    with tempfile.TemporaryDirectory() as scratch:
        python = Path(scratch, "venv", "bin", "python")
        made = Path(scratch, "made")
        subprocess.run([*_venv.UV, "venv", "-q", python.parents[1]], check=True)
        wheel = f"smg-grpc-proto=={version}"
        subprocess.run([*_venv.UV, "pip", "install", "-q", "--python", python, wheel], check=True)
        script = Path(__file__).with_name("_vectors.py")
        subprocess.run([python, script, "smg_grpc_proto", made], check=True, cwd=scratch)
        files = FileDescriptorSet.FromString((made / "descriptors.binpb").read_bytes())
        vectors = made if version in WITH_VECTORS else None
        Frozen.here().write(f"published-{version}", facts(contract(files)), files, vectors)


def upstream(name: str) -> None:
    """Freeze the releases of a contract that an engine publishes itself."""
    import _vectors
    from _contract import contract, facts
    from _frozen import Frozen
    from _upstream import UPSTREAMS

    (contract_of,) = (upstream for upstream in UPSTREAMS if upstream.name == name)
    for version, release in zip(contract_of.releases, contract_of.frozen, strict=True):
        files = contract_of.published(version)
        with tempfile.TemporaryDirectory() as scratch:
            image, made = Path(scratch, "image.binpb"), Path(scratch, "made")
            image.write_bytes(files.SerializeToString(deterministic=True))
            _vectors.write(str(image), made)
            Frozen.here().write(release, facts(contract(files)), files, made)
        print(f"freeze: {release}")


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="check that they are intact and that proto/ keeps them")
    publish = commands.add_parser("published", help="freeze wheels of the package index")
    publish.add_argument("versions", nargs="+", metavar="VERSION")
    engines = commands.add_parser("upstream", help="freeze what engines publish themselves")
    engines.add_argument("names", nargs="+", metavar="NAME")
    args = parser.parse_args()
    _venv.enter()
    if args.command == "check":
        return check()
    if args.command == "upstream":
        return write_upstream(parser, args.names)
    from _frozen import PUBLISHED

    if wrong := [version for version in args.versions if version not in PUBLISHED]:
        parser.error(f"{wrong[0]} is not one of {PUBLISHED[0]} to {PUBLISHED[-1]}")
    for version in args.versions:
        published(version)
        print(f"freeze: published-{version}")
    return 0


def write_upstream(parser: argparse.ArgumentParser, names: list[str]) -> int:
    from _upstream import UPSTREAMS, Unreachable

    known = [upstream.name for upstream in UPSTREAMS]
    if wrong := [name for name in names if name not in known]:
        parser.error(f"{wrong[0]} is not one of {', '.join(known)}")
    try:
        for name in names:
            upstream(name)
    except Unreachable as error:
        print(f"freeze: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
