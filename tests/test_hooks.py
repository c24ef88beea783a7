"""The hooks for other repositories, run by pre-commit itself, from a clone of this checkout."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, checkout, make_environment, run

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(900)]

ORDER = 'syntax = "proto3";\npackage shop;\nmessage Order { string id = 1; int32 count = 2; }\n'


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def pre_commit(tools: Path, repository: Path, *words: str) -> tuple[int, str]:
    """The status of `pre-commit run`, and what it prints."""
    environment = os.environ | {"PRE_COMMIT_HOME": str(repository.parent / "pre-commit")}
    command = [str(tools / "pre-commit"), "run", *words]
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, encoding="utf-8"
    )
    return done.returncode, done.stdout + done.stderr


class Team:
    """A repository that vendors our protos and has one of its own."""

    def __init__(self, home: Path, tools: Path) -> None:
        self.home, self.tools = home / "team", tools
        source = checkout(home / "source")
        revision = run("git", "rev-parse", "HEAD", cwd=source).strip()
        self.write("proto/shop.proto", ORDER)
        self.write(
            ".pre-commit-config.yaml",
            f"""
repos:
  - repo: {source.as_uri()}
    rev: {revision}
    hooks:
      - id: smg-proto-export
        args: [third_party/smg]
      - id: smg-proto-diff
        args: ["git:HEAD", proto]
""",
        )
        run("smg-proto", "export", "third_party/smg", "--only", "smg.v1", cwd=self.home)
        run("git", "init", "-q", cwd=self.home)
        self.commit()

    def write(self, name: str, text: str) -> None:
        (self.home / name).parent.mkdir(parents=True, exist_ok=True)
        (self.home / name).write_text(text, encoding="utf-8")

    def commit(self) -> None:
        run("git", "add", "-A", cwd=self.home)
        who = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        run("git", *who, "commit", "-qm", "A commit", cwd=self.home)

    def check(self, hook: str) -> tuple[int, str]:
        """Run a hook as at a commit of what is there: the status, and what is printed."""
        run("git", "add", "-A", cwd=self.home)
        return pre_commit(self.tools, self.home, hook)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    requirements = ["pre-commit", "check-jsonschema"]
    return make_environment(tmp_path_factory.mktemp("tools") / "env", requirements).parent


@pytest.fixture(scope="module")
def shared(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Team:
    return Team(tmp_path_factory.mktemp("hooks"), tools)


@pytest.fixture
def team(shared: Team) -> Team:
    run("git", "reset", "-q", "--hard", cwd=shared.home)
    return shared


def test_a_vendored_copy_must_not_be_modified(team: Team) -> None:
    team.write("proto/shop.proto", ORDER.replace("}", "bool paid = 3; }"))
    status, printed = team.check("smg-proto-export")
    assert status == 0 and "Passed" in printed, printed
    chat = team.home / "third_party/smg/smg/v1/chat.proto"
    chat.write_text(f"// Ours.\n{read(chat)}", encoding="utf-8")
    status, printed = team.check("smg-proto-export")
    assert status == 1
    assert "third_party/smg: modified since the export: smg/v1/chat.proto" in printed


def test_a_commit_may_add_to_a_contract_but_not_break_it(team: Team) -> None:
    team.write("proto/shop.proto", ORDER.replace("}", "bool paid = 3; }"))
    status, printed = team.check("smg-proto-diff")
    assert status == 0 and "Passed" in printed, printed
    team.write("proto/shop.proto", ORDER.replace("int32 count = 2;", ""))
    status, printed = team.check("smg-proto-diff")
    assert status == 1
    assert "shop.Order.count" in printed and "loses" in printed


def test_the_hooks_are_documented(tools: Path) -> None:
    manifest = ROOT / ".pre-commit-hooks.yaml"
    run(tools / "pre-commit", "validate-manifest", manifest)
    pages = read(ROOT / "docs/diff-your-protos.md") + read(ROOT / "docs/languages.md")
    for hook in re.findall(r"^- id: (\S+)$", read(manifest), re.MULTILINE):
        assert f"id: {hook}" in pages


def test_the_repositorys_hooks_pass_and_detect_faults(tools: Path, tmp_path: Path) -> None:
    repository = checkout(tmp_path / "repository")
    (repository / ".venv").symlink_to(sys.prefix)
    status, printed = pre_commit(tools, repository, "--all-files")
    assert status == 0 and printed.count("...Passed") == 5, printed
    faults = {
        "smg_proto/errors.py": "import os\n",  # not used
        "smg_proto/compat/_skew.py": "\n\nempty = {  }\n",
        "smg_proto/llm_pb2.py": "# by hand\n",
        "proto/smg/v1/chat.proto": "\n\n\n// A comment.\n",
        "README.md": "\n[dead](dead.md)\n",
    }
    for name, fault in faults.items():
        (repository / name).write_text(f"{read(repository / name)}{fault}", encoding="utf-8")
    status, printed = pre_commit(tools, repository, "--all-files")
    assert status == 1 and printed.count("...Failed") == 5, printed


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("dependabot", ".github/dependabot.yml"),
    ],
)
def test_github_files_have_the_required_form(schema: str, files: str, tools: Path) -> None:
    found = sorted(ROOT.glob(files))
    assert found
    run(tools / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *found)
