"""smg-proto generate: generate a package for another language."""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from smg_proto import __version__
from smg_proto.cli import CommandError
from smg_proto.cli._export import default_packages, protos
from smg_proto.cli._installed import Installed, unknown
from smg_proto.cli._languages import BUF, GOOGLE_RPC, LANGUAGES, Language, search_path
from smg_proto.cli._tree import licence, put, read_tree, write

TEMPLATE = "buf.gen.yaml"
STREAMS = "smg/v1/"  # files of a template that go with this package alone
PYTHON = "python"


def arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join([*LANGUAGES, PYTHON])
    parser.add_argument("--lang", required=True, metavar="LANGUAGE", help=known)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="a folder for nothing else"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="PACKAGE",
        help="generate this package and what it imports; repeatable "
        "(default: the packages that DIR already has, or all)",
    )
    parser.add_argument(
        "--all", action="store_true", help="generate all packages, whatever DIR has"
    )
    for language in LANGUAGES.values():
        if language.option:
            parser.add_argument(
                f"--{language.option}",
                metavar="NAME",
                help=f"{language.title}: use this name (default: {language.package})",
            )
    parser.add_argument(
        "--proto",
        type=Path,
        metavar="DIR",
        help=f"{PYTHON}: generate code for your own protos, which may import this package's",
    )
    parser.add_argument(
        "-I",
        "--include",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help=f"{PYTHON}: search other imports of your protos here; repeatable",
    )
    parser.add_argument("--force", action="store_true", help="overwrite local modifications")


def run(args: argparse.Namespace) -> int:
    if args.lang == PYTHON:
        return _python(args)
    if args.proto or args.include:
        raise CommandError(f"--proto and -I are for {PYTHON}, not for {args.lang}")
    language = LANGUAGES.get(args.lang)
    if language is None:
        raise CommandError(unknown("language", args.lang, [*LANGUAGES, PYTHON]))
    contract = Installed()
    chosen = [contract.package(name) for name in args.only or ()]
    if args.all and chosen:
        raise CommandError("--all and --only exclude each other")
    name = _name(args, language)
    language.require_tools()
    # The manifest holds the name too, so that a run with another name does not overwrite silently.
    command = f"generate {language.name}"
    command += f" --{language.option} {name}" if name != language.package else ""
    packages = sorted({*(chosen or default_packages(args.out, command, contract, every=args.all))})
    files = generated(language, packages, name)
    written = write(args.out, files, command=command, packages=packages, force=args.force)
    what = f"{len(files)} files of {language.title} for smg-proto {__version__}"
    print(f"{args.out}: {'wrote' if written else 'already has'} {what}")
    return 0


def _python(args: argparse.Namespace) -> int:
    from smg_proto.cli import _python

    if args.proto is None:
        raise CommandError(
            "missing --proto DIR: give your own protos; "
            "the Python code of this package's protos is smg_proto itself"
        )
    if args.only or args.all or any(_given(args, language) for language in LANGUAGES.values()):
        raise CommandError(f"--lang {PYTHON} takes only --proto, -I, --out and --force")
    files = _python.generated(args.proto, args.include)
    command = f"generate {PYTHON}"
    written = write(args.out, files, command=command, packages=[], force=args.force)
    what = f"{len(files)} files of Python for smg-proto {__version__}"
    print(f"{args.out}: {'wrote' if written else 'already has'} {what}")
    return 0


def _given(args: argparse.Namespace, language: Language) -> str | None:
    return getattr(args, language.option.replace("-", "_")) if language.option else None


def _name(args: argparse.Namespace, language: Language) -> str:
    """The name of the generated package."""
    for other in LANGUAGES.values():
        given = _given(args, other)
        if given is None:
            continue
        if other is not language:
            raise CommandError(f"--{other.option} is for {other.name}, not for {language.name}")
        if not re.fullmatch(language.name_pattern, given, re.ASCII):
            raise CommandError(f"--{language.option}: invalid name {given!r}")
        return given
    return language.package


def generated(language: Language, packages: Iterable[str], name: str) -> dict[str, bytes]:
    """The generated code of these packages, with the files that turn it into a package."""
    buf = BUF.find()
    assert buf is not None  # require_tools has checked
    sources = protos(packages)
    has_streams = any(path.startswith(STREAMS) for path in sources)
    before, after = (language.named.format(n).encode() for n in (language.package, name))
    with tempfile.TemporaryDirectory() as scratch:
        source, out, template = (
            Path(scratch, "proto"),
            Path(scratch, "out"),
            Path(scratch, TEMPLATE),
        )
        for path, data in sources.items():
            put(source / path, data.replace(before, after))
        if language.needs_google_rpc:
            shutil.copytree(GOOGLE_RPC, source, dirs_exist_ok=True)
        for field in language.reserved_fields:
            rename_fields(source, field)
        template.write_bytes((language.folder / TEMPLATE).read_bytes().replace(before, after))
        command = [buf, "generate", str(source), "--template", str(template), "-o", str(out)]
        environment = {**os.environ, "PATH": search_path()}
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=environment
        )
        if done.returncode:
            output = (done.stderr or done.stdout).strip()
            raise CommandError(f"could not generate {language.title}: {output}")
        files = {**licence(), **dict(read_tree(out))}
    generated_paths = sorted(files)
    for path, data in read_tree(language.folder):
        if path != TEMPLATE and (has_streams or not path.startswith(STREAMS)):
            data = data.replace(b"0.0.0-version", semantic_version().encode())
            files[path] = data.replace(before, after)
    if language.name == "rust":
        files["src/lib.rs"] += rust_modules(generated_paths).encode()
    return files


def rust_modules(files: Iterable[str]) -> str:
    """The modules of lib.rs, one per proto package: src/smg/v1/smg.v1.rs is smg::v1."""
    lines: list[str] = []
    open_now: list[str] = []
    included = re.compile(r"src/((?:\w+/)+([\w.]+)\.rs)$")
    matches = [match for match in map(included.match, files) if match and ".tonic" not in match[2]]
    for match in sorted(matches, key=lambda match: match[2].split(".")):
        parts = match[2].split(".")
        while open_now != parts[: len(open_now)]:
            open_now.pop()
            lines.append(f"{'    ' * len(open_now)}}}")
        for part in parts[len(open_now) :]:
            lines.append(f"{'    ' * len(open_now)}pub mod {part} {{")
            open_now.append(part)
        lines.append(f'{"    " * len(open_now)}include!("{match[1]}");')
    while open_now:
        open_now.pop()
        lines.append(f"{'    ' * len(open_now)}}}")
    return "\n".join([*lines, ""])


def rename_fields(protos: Path, name: str) -> None:
    """Append `_field` to the name of a field. The wire format and JSON do not change."""
    declared = re.compile(rf"^(\s+[\w. ]+ )({name}) = (\d+);$", re.MULTILINE)
    for path in protos.rglob("*.proto"):
        path.write_text(
            declared.sub(r'\1\2_field = \3 [json_name = "\2"];', path.read_text(encoding="utf-8")),
            encoding="utf-8",
        )


def semantic_version() -> str:
    """The version as npm, cargo and Maven spell it: 0.5.0.dev0 is 0.5.0-dev.0."""
    return re.sub(r"\.?(a|b|rc|dev|post)(\d+)$", r"-\1.\2", __version__)
