#!/usr/bin/env python3
"""Cut a release: check, freeze, build, commit, tag. It pushes and uploads nothing.

    scripts/release.py 0.6.0 --dry-run       run only the checks
    scripts/release.py 0.6.0                 do all of it, after all of scripts/test
    scripts/release.py 0.6.0 --rebuild       build the tagged release into dist/, and compare it
                                             with the checksums in the tag

The checks: a clean tree, a new version, a changelog that mentions every changed symbol, a version
step that is large enough for the change, and comments with the right release for new symbols. Then
it writes the version, the changelog's heading, the freeze and the golden vectors, runs the tests,
builds sdist, wheel and bill of materials (CycloneDX) twice from the staged tree, compares them,
commits, tags with the checksums, and sets the next development version. If anything fails, it
restores the tree.
Exit status: 0 success, 1 check failed, 2 usage error.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import _venv

ROOT = _venv.ROOT
DIST = ROOT / "dist"
INIT = ROOT / "smg_proto" / "__init__.py"
CHANGELOG = ROOT / "CHANGELOG.md"
CYCLONEDX = "cyclonedx-bom==7.5.0"


class Refused(Exception):
    """The release is not possible. The message has one reason per line."""


def run(*command: str | Path, cwd: Path = ROOT, capture: bool = False) -> str:
    """Run a command in the repository's environment. A failure ends the release."""
    # SOURCE_DATE_EPOCH would change the files; without it, the builder uses a constant.
    clean = {k: v for k, v in _venv.environment().items() if k != "SOURCE_DATE_EPOCH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=clean, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        raise Refused(f"{' '.join(words)}: exit status {done.returncode}")
    return done.stdout.decode().strip() if capture else ""


def git(*words: str) -> str:
    return run("git", *words, capture=True)


def objections(version: str) -> list[str]:
    """Why this version cannot be released from this tree."""
    from _changelog import UNRELEASED, problems, section
    from _frozen import Frozen

    import smg_proto

    frozen, reasons = Frozen.here(), list[str]()
    if changed := git("status", "--porcelain"):
        reasons.append(f"the tree is not clean: {changed.splitlines()[0].strip()}, ...")
    if git("tag", "--list", f"v{version}"):
        reasons.append(f"the tag v{version} already exists")
    if version in frozen.own:
        reasons.append(f"{version} is already frozen: a release is never made again")
        return reasons
    changelog = CHANGELOG.read_text(encoding="utf-8")
    text = section(changelog, version) or section(changelog, UNRELEASED)
    if not text:
        reasons.append(f"CHANGELOG.md has no text under [{UNRELEASED}] or [{version}]")
    return [*reasons, *problems(frozen, smg_proto.descriptor_set(), text, version)]


def set_version(version: str) -> None:
    text, count = re.subn(
        r'^__version__ = "[^"]*"$',
        f'__version__ = "{version}"',
        INIT.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    if count != 1:
        raise Refused(f"{INIT}: {count} lines set __version__, not 1")
    INIT.write_text(text, encoding="utf-8")


def write_release(version: str) -> None:
    """Write the version, the changelog's heading, the freeze and the vectors."""
    from _changelog import released_section
    from _contract import contract
    from _frozen import Frozen

    import smg_proto

    set_version(version)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    CHANGELOG.write_text(
        released_section(CHANGELOG.read_text(encoding="utf-8"), version, today), encoding="utf-8"
    )
    files = smg_proto.descriptor_set()
    with tempfile.TemporaryDirectory() as made:
        run(_venv.PYTHON, ROOT / "scripts" / "_vectors.py", "smg_proto", made)
        Frozen.here().write(version, contract(files), files, Path(made))


def bill_of_materials(wheel: Path, version: str, source: Path, environment: Path) -> str:
    """What a base install of the wheel consists of, at the versions of the tree's constraints."""
    run(*_venv.UV, "venv", "-q", environment)
    pins = source / "scripts" / "constraints.txt"
    run(*_venv.UV, "pip", "install", "-q", "--python", environment, "--constraints", pins, wheel)
    cyclonedx = [*_venv.UV, "tool", "run", "-q", "--from", CYCLONEDX, "cyclonedx-py", "environment"]
    options = ["--output-reproducible", "--mc-type", "library", "--pyproject"]
    about = source / "pyproject.toml"
    bill = json.loads(run(*cyclonedx, *options, about, environment, capture=True))
    package = bill["metadata"]["component"]
    package |= {"version": version, "purl": f"pkg:pypi/{package['name']}@{version}"}
    return json.dumps(bill, indent=2) + "\n"


def build(out: Path, tree: str) -> str:
    """Build sdist, wheel and bill of materials of a git tree. Returns the content of SHA256SUMS."""
    with tempfile.TemporaryDirectory() as scratch:
        archive, source = Path(scratch, "tree.tar"), Path(scratch, "source")
        git("archive", f"--output={archive}", tree)
        shutil.unpack_archive(archive, source)
        run(*_venv.UV, "build", "-q", "--out-dir", out, source)
        (wheel,) = out.glob("*.whl")
        name, version, *_ = wheel.name.split("-")
        bill = bill_of_materials(wheel, version, source, Path(scratch, "environment"))
        (out / f"{name}-{version}.cdx.json").write_text(bill, encoding="utf-8")
    files = sorted(file for file in out.iterdir() if file.name.startswith(f"{name}-{version}"))
    return "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)


def build_twice(out: Path) -> str:
    """Build the staged tree twice. Returns the checksums, which must be the same."""
    tree = git("write-tree")
    sums = build(out, tree)
    with tempfile.TemporaryDirectory() as again:
        if (second := build(Path(again), tree)) != sums:
            raise Refused(f"two builds of one tree differ:\n{sums}{second}")
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    return sums


def next_version(version: str) -> str:
    major, minor, _ = version.split(".")
    return f"{major}.{int(minor) + 1}.0.dev0"


def release(version: str, groups: list[str]) -> None:
    """Make the release, or restore the tree."""
    head = git("rev-parse", "HEAD")
    built = Path(tempfile.mkdtemp(dir=ROOT / ".venv"))
    try:
        write_release(version)
        run(ROOT / "scripts" / "test", *groups)
        git("add", "--all")
        sums = build_twice(built)
        git("commit", "--quiet", f"--message=Release {version}")
        git("tag", "--annotate", f"v{version}", f"--message=Release {version}\n\n{sums}")
        set_version(next_version(version))
        git("commit", "--quiet", "--all", f"--message=Start development of {next_version(version)}")
        shutil.rmtree(DIST, ignore_errors=True)
        shutil.move(built, DIST)
    except BaseException:
        git("add", "--all")  # so that the reset removes new files too
        git("reset", "--quiet", "--hard", head)
        subprocess.run(["git", "tag", "--delete", f"v{version}"], cwd=ROOT, capture_output=True)
        raise
    finally:
        shutil.rmtree(built, ignore_errors=True)
    print(f"release: {version} is v{version}; {DIST}:\n{sums}")
    print(
        "release: next: git push --follow-tags; the workflow `release` uploads the tagged release"
    )


def rebuild(version: str) -> None:
    """Build a tagged release into dist/, if the build has the checksums in the tag's message."""
    tag = f"v{version}"
    message = git("tag", "--list", "--format=%(contents)", tag)
    checksums = re.findall(r"^[0-9a-f]{64}  \S+$", message, re.MULTILINE)
    wanted = "".join(f"{line}\n" for line in checksums)
    if not wanted:
        raise Refused(f"no tag {tag} with checksums; run git fetch --force origin tag {tag}")
    built = Path(tempfile.mkdtemp(dir=ROOT / ".venv"))
    try:
        if (sums := build(built, tag)) != wanted:
            why = "another version of the build backend writes different files"
            raise Refused(
                f"{tag} was built as\n{wanted}and is now\n{sums}{why}; make a new release"
            )
        shutil.rmtree(DIST, ignore_errors=True)
        shutil.move(built, DIST)
    finally:
        shutil.rmtree(built, ignore_errors=True)
    print(f"release: {tag}, as tagged; {DIST}:\n{sums}")


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("version", metavar="VERSION", help="such as 0.6.0")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="check, and write nothing")
    what.add_argument("--rebuild", action="store_true", help="build the tagged release again")
    parser.add_argument(
        "--groups", nargs="*", default=[], help="run these test groups (default: all)"
    )
    args = parser.parse_args()
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", args.version):
        parser.error(f"{args.version!r} is not a version such as 1.2.3")
    _venv.enter()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    try:
        if args.rebuild:
            rebuild(args.version)
            return 0
        if reasons := objections(args.version):
            raise Refused("\n".join(reasons))
        if args.dry_run:
            run(ROOT / "scripts" / "test", "gate")
            print(
                f"release: {args.version} is possible; the next version is "
                f"{next_version(args.version)}"
            )
        else:
            release(args.version, args.groups)
    except Refused as refused:
        for line in str(refused).splitlines():
            print(f"release: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
