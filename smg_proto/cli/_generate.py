"""smg-proto generate: code for another language, as a package of that language's own kind."""

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from smg_proto import __version__, proto_path
from smg_proto.cli import CommandError
from smg_proto.cli._installed import Installed, unknown
from smg_proto.cli._languages import BUF, GOOGLE_RPC, LANGUAGES, Language
from smg_proto.cli._tree import licence, read_tree, write

TEMPLATE = "buf.gen.yaml"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lang", required=True, metavar="LANGUAGE", help=", ".join(LANGUAGES))
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="a folder of its own"
    )
    parser.add_argument("--force", action="store_true", help="overwrite local modifications")


def run(args: argparse.Namespace) -> int:
    language = LANGUAGES.get(args.lang)
    if language is None:
        raise CommandError(unknown("language", args.lang, LANGUAGES))
    language.require_tools()
    files = generated(language)
    done = write(
        args.out,
        files,
        command=f"generate {language.name}",
        packages=Installed().packages,
        force=args.force,
    )
    what = f"{len(files)} files of {language.title} for smg-proto {__version__}"
    print(f"{args.out}: {f'wrote {what}' if done else f'has {what} already'}")
    return 0


def generated(language: Language) -> dict[str, bytes]:
    """What the plugins write, with the files that make a package of it."""
    buf = BUF.find()
    assert buf is not None  # require_tools has looked
    template = language.folder / TEMPLATE
    with tempfile.TemporaryDirectory() as scratch:
        protos, out = Path(scratch, "proto"), Path(scratch, "out")
        shutil.copytree(proto_path(), protos)
        if language.wants_google_rpc:
            shutil.copytree(GOOGLE_RPC, protos, dirs_exist_ok=True)
        for name in language.impossible_fields:
            rename_fields(protos, name)
        command = [buf, "generate", str(protos), "--template", str(template), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise CommandError(f"{language.title} cannot be generated: {said}")
        files = {**licence(), **dict(read_tree(out))}
    for name, data in read_tree(language.folder):
        if name != TEMPLATE:
            files[name] = data.replace(b"0.0.0-version", semantic_version().encode())
    return files


def rename_fields(protos: Path, name: str) -> None:
    """Put `_field` behind the name of a field; on the wire and in JSON nothing changes."""
    declared = re.compile(rf"^(\s+[\w. ]+ )({name}) = (\d+);$", re.MULTILINE)
    for path in protos.rglob("*.proto"):
        path.write_text(
            declared.sub(r'\1\2_field = \3 [json_name = "\2"];', path.read_text(encoding="utf-8")),
            encoding="utf-8",
        )


def semantic_version() -> str:
    """The version as npm, cargo and Maven spell it: 0.5.0.dev0 is 0.5.0-dev.0."""
    return re.sub(r"\.?(a|b|rc|dev|post)(\d+)$", r"-\1.\2", __version__)
