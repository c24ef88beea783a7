"""smg-proto export: the proto files of this release, into a folder of your own."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from smg_proto import __version__, descriptor_set, proto_path
from smg_proto.cli import CommandError
from smg_proto.cli._installed import Installed
from smg_proto.cli._tree import Manifest, licence, read_manifest, sha256, write
from smg_proto.compat import ContractError, diff, load

COMMAND = "export"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dest", type=Path, metavar="DEST", help="a folder of its own")
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        metavar="PACKAGE",
        help="these packages and what they import; without it, all",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; say whether DEST is unmodified and up to date (exit 1: it is not)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite local modifications")


def run(args: argparse.Namespace) -> int:
    if args.check:
        return check(args.dest)
    contract = Installed()
    packages = sorted({contract.package(name) for name in args.only or contract.packages})
    files = closure(packages)
    done = write(args.dest, files, command=COMMAND, packages=packages, force=args.force)
    what = f"{len(files)} files of smg-proto {__version__}"
    print(f"{args.dest}: {f'wrote {what}' if done else f'has {what} already'}")
    return 0


def closure(packages: Iterable[str]) -> dict[str, bytes]:
    """The files of these packages and of all they import, and the licence.

    google's own files come with every compiler.
    """
    every = {file.name: file for file in descriptor_set().file}
    wanted = [file.name for file in every.values() if file.package in packages]
    found = licence()
    while wanted:
        name = wanted.pop()
        if name not in found and not name.startswith("google/"):
            found[name] = (proto_path() / name).read_bytes()
            wanted += every[name].dependency
    return found


def check(dest: Path) -> int:
    """Say how a vendored copy differs from what was exported, and from this release."""
    manifest = read_manifest(dest)
    if manifest is None or manifest.command != COMMAND:
        raise CommandError(f"{dest}: no export of smg-proto; `smg-proto export {dest}` makes one")
    lines = [f"modified since it was exported: {name}" for name in manifest.modified(dest)]
    lines += [f"missing: {name}" for name in manifest.missing(dest)]
    if stale := stale_files(manifest):
        lines.append(f"exported from smg-proto {manifest.version}; in {__version__}:")
        lines += [f"  {line}" for line in [*stale, *contract_changes(dest, manifest)]]
    for line in lines or [f"{len(manifest.files)} files, unmodified, as in {__version__}"]:
        print(f"{dest}: {line}")
    return 1 if lines else 0


def stale_files(manifest: Manifest) -> list[str]:
    """The files that this release would export otherwise."""
    known = set(Installed().packages)
    ours = closure(known.intersection(manifest.packages))
    digests = {name: sha256(data) for name, data in ours.items()}
    lines = [f"package {name} is gone" for name in manifest.packages if name not in known]
    for name in sorted({*digests, *manifest.files}):
        if name not in digests:
            lines.append(f"{name} is gone")
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
        return [f"what that means cannot be told: {error}"]
    lines = [f"{found.cls}: {found.symbol}: {found.message}" for found in report.findings]
    return lines or ["only comments and options differ"]
