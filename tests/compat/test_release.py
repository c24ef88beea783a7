"""scripts/release.py, run for real on a copy of this checkout in a repository of its own."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from _changelog import section
from _frozen import ROOT, Frozen, numbers
from live import release_wheel
from support import run

import smg_proto

pytestmark = pytest.mark.packaging

FROZEN = Frozen.here()
NOW = smg_proto.__version__
MAJOR, MINOR, _ = numbers(NOW)
# The release that this checkout leads to; from a release itself, the next one.
VERSION = f"{MAJOR}.{MINOR + 1}.0" if NOW in FROZEN.own else f"{MAJOR}.{MINOR}.0"


def attempt(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["python3", "scripts/release.py", *words]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True)


def git(repository: Path, *words: str) -> str:
    return run("git", *words, cwd=repository).strip()


def commit(repository: Path, path: str, old: str, new: str) -> None:
    file = repository / path
    assert old in file.read_text(encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    git(repository, "commit", "-qam", f"Edit {path}")


def state(repository: Path) -> tuple[str, ...]:
    """All that a release that is not made must leave alone."""
    sent = (["rev-parse", "HEAD"], ["tag"], ["status", "--porcelain", "--ignored=no"])
    return tuple(git(repository, *words) for words in sent)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this checkout as one commit, with one more entry in the changelog."""
    home = tmp_path_factory.mktemp("release") / "repository"
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).exists():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, home / name)
    changelog = home / "CHANGELOG.md"
    entry = "## [Unreleased]\n\n- One more entry.\n"
    changelog.write_text(
        changelog.read_text(encoding="utf-8").replace("## [Unreleased]\n", entry, 1),
        encoding="utf-8",
    )
    git(home, "init", "-q", "-b", "main")
    for key in ("commit.gpgsign", "tag.gpgsign"):
        git(home, "config", key, "false")
    git(home, "config", "user.name", "A. Maintainer")
    git(home, "config", "user.email", "maintainer@localhost")
    git(home, "add", "-A")
    git(home, "commit", "-qm", "A checkout")
    return home


def test_a_dry_run_checks_and_writes_nothing(repository: Path) -> None:
    before = state(repository)
    done = attempt(repository, VERSION, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{VERSION} is possible" in done.stdout
    assert state(repository) == before


@pytest.mark.parametrize(
    ("version", "code", "reason"),
    [
        ("1.2", 2, "'1.2' is not a version such as 1.2.3"),
        ("v1.2.3", 2, "'v1.2.3' is not a version"),
        ("1.2.3.dev0", 2, "'1.2.3.dev0' is not a version"),
        ("0.0.1", 1, "to 0.0.1 is too small a step"),
    ],
)
def test_a_version_that_cannot_be_is_refused(
    repository: Path, version: str, code: int, reason: str
) -> None:
    done = attempt(repository, version)
    assert done.returncode == code
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("path", "old", "new", "reason"),
    [
        ("README.md", "#", "##", "the tree is not clean"),
        ("CHANGELOG.md", "## [Unreleased]", "## [Done]", "has no text under [Unreleased]"),
    ],
)
def test_a_tree_that_is_not_ready_is_refused(
    repository: Path, path: str, old: str, new: str, reason: str
) -> None:
    file = repository / path
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = attempt(repository, VERSION)
    file.write_text(text, encoding="utf-8")
    assert done.returncode == 1
    assert reason in done.stderr


def test_a_release_whose_tests_fail_leaves_the_tree_as_it_was(repository: Path) -> None:
    commit(
        repository, "scripts/_tools.py", "import sysconfig", "import  sysconfig"
    )  # the gate formats
    before = state(repository)
    done = attempt(repository, VERSION, "--groups", "gate")
    assert state(repository) == before
    assert done.returncode == 1
    assert "release: " in done.stderr
    assert "scripts/test gate: exit status 1" in done.stderr
    git(repository, "reset", "-q", "--hard", "HEAD~1")


def test_a_release_is_frozen_built_and_tagged_and_then_holds(
    repository: Path, tmp_path: Path
) -> None:
    done = attempt(repository, VERSION, "--groups", "gate")
    assert done.returncode == 0, done.stdout + done.stderr

    # Two commits: the release, and what follows.
    subjects = git(repository, "log", "--format=%s", "-2").splitlines()
    later = f"{VERSION.split('.')[0]}.{int(VERSION.split('.')[1]) + 1}.0.dev0"
    assert subjects == [f"Start development of {later}", f"Release {VERSION}"]
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "rev-parse", f"v{VERSION}^{{commit}}", "HEAD~1").split()[0] == git(
        repository, "rev-parse", "HEAD~1"
    )
    for revision, version in (("HEAD", later), ("HEAD~1", VERSION)):
        text = git(repository, "show", f"{revision}:smg_proto/__init__.py")
        assert f'__version__ = "{version}"' in text
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    assert section(changelog, "Unreleased") == ""
    assert "- One more entry." in section(changelog, VERSION)

    # sdist, wheel and bill of materials, with checksums beside them and in the tag.
    sums = (repository / "dist" / "SHA256SUMS").read_text(encoding="utf-8")
    assert sums.strip() in git(repository, "tag", "--list", "--format=%(contents)", f"v{VERSION}")
    names = [line.split("  ")[1] for line in sums.splitlines()]
    stem = f"smg_grpc_proto-{VERSION}"
    assert names == [f"{stem}-py3-none-any.whl", f"{stem}.cdx.json", f"{stem}.tar.gz"]
    run("sha256sum", "--check", "SHA256SUMS", cwd=repository / "dist")
    bill = json.loads((repository / "dist" / names[1]).read_text(encoding="utf-8"))
    package = bill["metadata"]["component"]
    assert package["purl"] == f"pkg:pypi/smg-grpc-proto@{VERSION}"
    assert {"grpcio", "protobuf"} <= {component["name"] for component in bill["components"]}
    assert "file://" not in str(bill)

    # Frozen whole, found again by the suite, and built again from its commit to the same bytes.
    frozen = Frozen(repository / "tests" / "compat", [*FROZEN.own, VERSION])
    assert list(frozen.defects()) == []
    wheel = release_wheel(VERSION, Path("unused"), tmp_path / "again", frozen)
    assert wheel.read_bytes() == (repository / "dist" / names[0]).read_bytes()
    run("python3", "scripts/test", "gate", cwd=repository)

    # The files that are uploaded are built again from the tag; others than those are not.
    built = [(repository / "dist" / name).read_bytes() for name in names]
    shutil.rmtree(repository / "dist")
    assert attempt(repository, VERSION, "--rebuild").returncode == 0
    assert [(repository / "dist" / name).read_bytes() for name in names] == built
    shutil.rmtree(repository / "dist")
    tag = ("tag", "--force", "--annotate", f"v{VERSION}", f"v{VERSION}^{{}}", "--message")
    git(repository, *tag, sums.replace(sums[:8], "00000000"))
    done = attempt(repository, VERSION, "--rebuild")
    assert done.returncode == 1 and f"v{VERSION} was built as" in done.stderr
    git(repository, *tag, "no checksums")
    assert "no tag" in attempt(repository, VERSION, "--rebuild").stderr
    assert not (repository / "dist").exists()

    # Never made again, and nothing that it has can be taken away.
    assert f"{VERSION} is already frozen" in attempt(repository, VERSION).stderr
    commit(repository, "proto/smg/v1/chat.proto", "string model = 1;", "string model = 77;")
    run("python3", "scripts/build.py", cwd=repository)
    gate = subprocess.run(
        ["python3", "scripts/test", "gate"], cwd=repository, capture_output=True, text=True
    )
    assert gate.returncode == 1
    assert f"smg.v1.ChatRequest.model: differs from {VERSION}" in gate.stderr
    assert 'Previously present field "1" with name "model"' in gate.stdout + gate.stderr  # buf
