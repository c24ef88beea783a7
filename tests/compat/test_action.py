"""action.yml: what a workflow of another repository sees of a pull request."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, need, run

pytestmark = pytest.mark.packaging  # needs bash and what a runner has beside it

PROTO = 'syntax = "proto3";\npackage shop;\nmessage Order {\n  int32 id = 1;\n}\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout whose base has another type of a field."""
    need("git")
    need("bash")
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "shop.proto").write_text(PROTO, encoding="utf-8")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "base"]):
        run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words, cwd=folder)
    (folder / "shop.proto").write_text(PROTO.replace("int32", "string"), encoding="utf-8")
    return folder


def act(folder: Path, tmp_path: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the step with an installation that is there already."""
    bin_ = tmp_path / "runner" / "smg-proto" / "bin"
    bin_.mkdir(parents=True, exist_ok=True)
    command = bin_ / "smg-proto"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m smg_proto "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    defaults = dict.fromkeys(("OLD", "ARGUMENTS", "ACCEPT", "SARIF", "BASE"), "")
    values = defaults | {"NEW": ".", "LEVEL": "source", "VERSION": "none"} | inputs
    values |= {
        "RUNNER_TEMP": str(tmp_path / "runner"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        ["bash", ROOT / "scripts" / "action.sh"],
        cwd=folder,
        env=os.environ | values,
        capture_output=True,
        text=True,
    )


def test_a_break_fails_the_job_annotates_the_line_and_writes_a_report(
    repository: Path, tmp_path: Path
) -> None:
    base = run("git", "rev-parse", "HEAD", cwd=repository).strip()
    sarif = tmp_path / "out.sarif"
    done = act(repository, tmp_path, BASE=base, SARIF=str(sarif))
    assert done.returncode == 1, done.stderr
    assert "::error title=data%3A shop.Order.id,file=shop.proto,line=4::" in done.stdout
    assert "verdict=data\n" in (tmp_path / "output").read_text(encoding="utf-8")
    assert (tmp_path / "summary").read_text(encoding="utf-8").startswith("**data**: ")
    assert '"ruleId": "data"' in sarif.read_text(encoding="utf-8")


def test_a_compatible_change_passes(repository: Path, tmp_path: Path) -> None:
    done = act(repository, tmp_path, OLD=".")
    assert done.returncode == 0, done.stderr
    assert "verdict=compatible\n" in (tmp_path / "output").read_text(encoding="utf-8")


def test_there_is_no_verdict_if_the_comparison_fails(repository: Path, tmp_path: Path) -> None:
    assert act(repository, tmp_path, BASE="0" * 40).returncode == 2
    assert act(repository, tmp_path, OLD="no-such-folder").returncode == 2
    assert not (tmp_path / "output").exists()


def test_inputs_are_never_part_of_the_script(repository: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    evil = f'$(touch "{proof}")"; touch "{proof}"; echo "'
    for name in ("OLD", "NEW", "LEVEL", "ARGUMENTS", "ACCEPT", "BASE"):
        inputs = {"OLD": "" if name == "BASE" else ".", name: evil}
        assert act(repository, tmp_path, **inputs).returncode == 2
    assert not proof.exists()
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert not re.search(r"\$\{\{", text.partition("run: bash")[2])


def test_the_inputs_of_the_action_are_those_of_its_script() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    given = set(re.findall(r"^ {8}([A-Z]+): \$\{\{", text, re.MULTILINE))
    script = (ROOT / "scripts" / "action.sh").read_text(encoding="utf-8")
    assert given == set(re.findall(r"[A-Z]+", script.splitlines()[2].partition("Reads")[2]))
