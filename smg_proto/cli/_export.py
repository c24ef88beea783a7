"""smg-proto export: write the proto files of this release to a folder."""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from smg_proto import __version__, descriptor_set, proto_path
from smg_proto._standard import standard_files
from smg_proto.cli import CommandError, say
from smg_proto.cli._installed import Installed
from smg_proto.cli._tree import Manifest, licence, read_manifest, sha256, write
from smg_proto.compat import ContractError, diff, load

COMMAND = "export"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dest", type=Path, metavar="DEST", help="a folder for nothing else")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PACKAGE",
        help="write this package and what it imports; repeatable "
        "(default: the packages that DEST already has, or all)",
    )
    parser.add_argument("--all", action="store_true", help="write all packages, whatever DEST has")
    parser.add_argument(
        "--descriptor-set",
        action="store_true",
        help="write a FileDescriptorSet with all imports and error details to the file DEST, "
        "for tools such as grpcurl -protoset, ghz --protoset and Envoy",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; report whether DEST is unmodified and up to date (exit 1: it is not)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite local modifications")


def run(args: argparse.Namespace) -> int:
    contract = Installed()
    chosen = [contract.package(name) for name in args.only or ()]
    if args.all and chosen:
        raise CommandError("--all and --only exclude each other")
    if args.descriptor_set:
        if args.check:
            raise CommandError("--check is for folders; compare a descriptor set with diff")
        return _write_descriptor_set(args.dest, chosen or contract.packages, args.force)
    if args.check:
        return check(args.dest, chosen)
    packages = sorted({*(chosen or default_packages(args.dest, COMMAND, contract, every=args.all))})
    files = closure(packages)
    written = write(args.dest, files, command=COMMAND, packages=packages, force=args.force)
    what = f"{len(files)} files of smg-proto {__version__}"
    say(f"{args.dest}: {'wrote' if written else 'already has'} {what}")
    return 0


def default_packages(dest: Path, command: str, contract: Installed, *, every: bool) -> list[str]:
    """The packages that a folder already has, so that a new run does not add more; else all."""
    manifest = None if every else read_manifest(dest)
    if manifest is None or manifest.command != command:
        return contract.packages
    return [name for name in manifest.packages if name in contract.packages] or contract.packages


def closure(packages: Iterable[str]) -> dict[str, bytes]:
    """The files of these packages and of their imports, and the licence.

    Google's own files are left out: every compiler has them.
    """
    return {**licence(), **protos(packages)}


def protos(packages: Iterable[str]) -> dict[str, bytes]:
    """The files of these packages and of their imports, without Google's own."""
    names = [name for name in _needed(packages) if not name.startswith("google/")]
    return {name: (proto_path() / name).read_bytes() for name in names}


def _needed(packages: Iterable[str]) -> list[str]:
    """The names of the files of these packages and of their imports."""
    files = {file.name: file for file in descriptor_set().file}
    todo = [file.name for file in files.values() if file.package in packages]
    names: dict[str, None] = {}
    while todo:
        name = todo.pop()
        if name not in names:
            names[name] = None
            todo += files[name].dependency
    return list(names)


def _write_descriptor_set(dest: Path, packages: Iterable[str], force: bool) -> int:
    needed = set(_needed(packages))
    files = [file for file in descriptor_set().file if file.name in needed]  # imports first
    # Add the messages of error details, which no proto imports.
    known = {file.name for file in files}
    google = (file for file in standard_files() if file.package.startswith("google."))
    files += [file for file in google if file.name not in known]
    data = FileDescriptorSet(file=files).SerializeToString()
    try:
        if dest.exists() and not dest.is_file():
            raise CommandError(f"{dest}: not a file; choose another destination")
        if dest.is_file() and dest.read_bytes() != data and not force:
            raise CommandError(f"{dest}: a different file exists; overwrite it with --force")
        dest.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=dest.parent) as scratch:
            new = Path(scratch, dest.name)  # not a temporary file, which only its owner may read
            new.write_bytes(data)
            new.replace(dest)
    except OSError as error:
        raise CommandError(f"{error.filename or dest}: {error.strerror or error}") from error
    say(f"{dest}: wrote {len(files)} files of smg-proto {__version__} as one descriptor set")
    return 0


def check(dest: Path, chosen: Iterable[str] = ()) -> int:
    """Report how a vendored copy differs from what was exported, and from this release."""
    manifest = read_manifest(dest)
    if manifest is None or manifest.command != COMMAND:
        raise CommandError(
            f"{dest}: not written by smg-proto export; run `smg-proto export {dest}`"
        )
    lines = [f"modified since the export: {name}" for name in manifest.modified(dest)]
    lines += [f"missing: {name}" for name in manifest.missing(dest)]
    lines += [f"missing package: {name}" for name in chosen if name not in manifest.packages]
    if stale := stale_files(manifest):
        lines.append(f"exported from smg-proto {manifest.version}; changes in {__version__}:")
        lines += [f"  {line}" for line in [*stale, *contract_changes(dest, manifest)]]
    for line in lines or [f"{len(manifest.files)} files, unmodified and as in {__version__}"]:
        say(f"{dest}: {line}")
    return 1 if lines else 0


def stale_files(manifest: Manifest) -> list[str]:
    """The files that this release would export differently."""
    known = set(Installed().packages)
    ours = closure(known.intersection(manifest.packages))
    digests = {name: sha256(data) for name, data in ours.items()}
    lines = [f"package {name} was removed" for name in manifest.packages if name not in known]
    for name in sorted({*digests, *manifest.files}):
        if name not in digests:
            lines.append(f"{name} was removed")
        elif name not in manifest.files:
            lines.append(f"{name} is new")
        elif digests[name] != manifest.files[name]:
            lines.append(f"{name} has changed")
    return lines


def contract_changes(dest: Path, manifest: Manifest) -> list[str]:
    """What `smg-proto diff` finds between the copy and this release."""
    try:
        old, new = load(dest), load("self")
        known = old.packages | new.packages
        report = diff(old, new, [name for name in manifest.packages if name in known])
    except ContractError as error:
        return [f"could not compare the contracts: {error}"]
    lines = [f"{one.cls}: {one.symbol}: {one.message}" for one in report.findings]
    return lines or ["only comments and options differ"]
