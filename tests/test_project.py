"""What surrounds the code says what is true: workflows, forms, files that tools read."""

import re
from pathlib import Path

import _runner
import pytest
from support import ROOT, need, need_checkout, run, tracked

import smg_proto


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


CI = read(".github/workflows/ci.yml")
PYPROJECT = read("pyproject.toml")
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
SLOW = [*_runner.groups()][2:]
GROUPS = [name for name in SLOW if name not in _runner.BY_NAME_ONLY]


def job(name: str) -> str:
    """A job of ci.yml."""
    return re.split(r"\n  \w+:\n", CI.partition(f"\n  {name}:\n")[2])[0]


def matrix(name: str, key: str) -> list[str]:
    """The values of a job's matrix."""
    found = re.search(rf"^ +{key}: \[(.*)\]$", job(name), re.MULTILINE)
    assert found
    return re.findall(r'[^\s,"]+', found[1])


def test_every_python_that_is_named_is_tested() -> None:
    first, last = PYTHONS[0], PYTHONS[-1]
    assert matrix("core", "python") == PYTHONS
    assert f'requires-python = ">={first}"' in PYPROJECT
    assert f"| Python | {first} to {last} |" in read("README.md")
    for page in ("README.md", "CONTRIBUTING.md"):
        assert f"Python {first} or newer (tested up to {last})" in read(page)


def test_every_test_group_runs_in_the_workflow() -> None:
    assert "scripts/test gate core\n" in job("core")
    assert "scripts/test languages\n" in job("languages")
    assert sorted([*matrix("groups", "group"), "languages"]) == sorted(GROUPS)
    chosen = re.findall(r"groups: ([\w -]+),", job("nightly"))
    assert chosen and all({*line.split()} <= {"gate", "core", *SLOW} for line in chosen)
    assert {*" ".join(chosen).split()} & {*SLOW} >= _runner.BY_NAME_ONLY
    assert re.search(r"needs: \[core, groups, languages\]", job("passed"))


@pytest.mark.parametrize(
    ("language", "output", "used"),
    [
        ("go", r"Needs Go (\S+) or newer", r"go-version-file: clients/go/go\.mod"),
        ("typescript", r"Needs Node\.js (\d+) or newer", r'node-version: "{}"'),
        ("java", r"Needs Java (\d+) and", r'java-version: "{}"'),
        ("rust", r"Needs Rust (\S+) or newer", r"rustup default {}"),
    ],
)
def test_the_oldest_toolchain_of_a_client_is_the_one_that_is_tested(
    language: str, output: str, used: str
) -> None:
    found = re.search(output, read(f"clients/{language}/README.md"))
    assert found and re.search(used.format(re.escape(found[1])), job("languages"))
    if language == "go":
        assert re.search(rf"^go {re.escape(found[1])}(\.0)?$", read("clients/go/go.mod"), re.M)


def test_what_cpp_needs_is_installed_wherever_it_is_built() -> None:
    packages = re.search(r"packages = \(([^)]+)\)", read("tests/languages/toolchains.py"))
    assert packages
    need_checkout()
    for text in (job("languages"), read(".ci/run")):
        assert " ".join(re.findall(r'"(.+?)"', packages[1])) in " ".join(text.split())


MANIFESTS = {
    "pip": ("pyproject.toml", "constraints.txt"),
    "gomod": ("go.mod",),
    "npm": ("package.json",),
    "cargo": ("Cargo.toml",),
    "maven": ("pom.xml",),
}


def test_dependabot_looks_at_every_manifest() -> None:
    seen: set[str] = set()
    for entry in read(".github/dependabot.yml").split("- package-ecosystem: ")[1:]:
        kind = entry.split("\n")[0]
        folders = re.search(r"director(?:y|ies): \[?(.*?)\]?\n", entry)
        assert folders
        if kind != "github-actions":
            seen |= {f"{kind} {folder.strip('/')}" for folder in folders[1].split(", ")}
    there = {
        f"{kind} {'' if folder == '.' else folder}"
        for kind, manifests in MANIFESTS.items()
        for folder, name in map(folder_and_name, tracked())
        # Of templates there is nothing to update: `smg-proto generate` fills them in.
        if name in manifests and not folder.startswith("templates/")
    }
    assert seen == there


def folder_and_name(name: str) -> tuple[str, str]:
    return Path(name).parent.as_posix(), Path(name).name


def test_the_form_lists_every_contract() -> None:
    options = read(".github/ISSUE_TEMPLATE/contract.yml").partition("options:\n")[2]
    listed = re.findall(r"^ {8}- (\S+)$", options, re.MULTILINE)
    packages = {file.package for file in smg_proto.descriptor_set().file}
    assert listed == sorted(name for name in packages if not name.startswith("google."))


def test_files_follow_editorconfig() -> None:
    wrong: list[str] = []
    for name in tracked():
        data = (ROOT / name).read_bytes()
        generated = "_pb2" in name or name.startswith(("tests/compat/releases", "docs/reference"))
        if name.endswith(".binpb") or generated or not data:
            continue
        text = data.decode()  # UTF-8
        tabs = name.endswith((".go", "go.mod", ".tsv", ".md"))  # pages show code in Go
        if "\r" in text or not text.endswith("\n"):
            wrong.append(f"{name}: lines do not end as they should")
        if re.search(r"[ \t]+$", text, re.MULTILINE) and not name.endswith(".tsv"):
            wrong.append(f"{name}: blanks at the end of a line")
        if not tabs and re.search(r"^\t", text, re.MULTILINE):
            wrong.append(f"{name}: indented by tabs")
    assert wrong == []


@pytest.mark.packaging
def test_workflows_are_valid() -> None:
    go = need("go")
    tool = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert len(workflows) == 2
    run(go, "run", tool, "-shellcheck=", "-pyflakes=", *workflows, cwd=ROOT)
