"""scripts/links.py: dead links are named with their page and line, living ones are not."""

import subprocess
import sys
from pathlib import Path

import pytest
from links import Repository, anchors
from support import ROOT, run

HOME = """\
# Home

[a page](docs/page.md) ![a picture](docs/a%20b.png) [`code`](<docs/a b.png>)
[![badge](docs/a%20b.png)](docs/page.md "A title") [folder](docs) [a (b) c](docs/x_(y).md)
[up](#home) [down](docs/page.md#two-words-code-and-a-link) [again](docs/page.md#again-1)
[site](https://example.org/none.md#none) [mail](mailto:a@example.org) [own][page] [own][]
<a href="docs/page.md#mark">html</a> [folder's page](docs#docs)

[page]: docs/page.md
[own]: docs/page.md#again
"""
PAGE = """\
## Two words, `code` and [a link](../README.md)
### Again
### Again ###
<a id="mark"></a>
    """


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Pages that link to each other, none of them wrongly."""
    files = {
        "README.md": HOME,
        "docs/page.md": PAGE,
        "docs/README.md": "# Docs\n",
        "docs/x_(y).md": "",
        "docs/a b.png": "",
        ".gitignore": "ignored.md\n",
        "ignored.md": "# Ignored\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    run("git", "init", "-q", cwd=tmp_path)
    return tmp_path


def test_links_to_files_folders_and_headings_work(repository: Path) -> None:
    assert list(Repository(repository).faults("README.md")) == []


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("[x](docs/none.md)", "docs/none.md: no file docs/none.md in the repository"),
        ("[x](docs/Page.md)", "docs/Page.md: no file docs/Page.md in the repository"),
        ("[x](ignored.md)", "ignored.md: no file ignored.md in the repository"),
        ("[x](../other/page.md)", "../other/page.md: no file ../other/page.md in the repository"),
        ("[x](#nowhere)", "#nowhere: no heading #nowhere in README.md"),
        ("[x](docs/page.md#again-2)", "docs/page.md#again-2: no heading #again-2 in docs/page.md"),
        ("[x](docs#again)", "docs#again: no heading #again in docs/README.md"),
        ("[x](docs/a%20b.png#x)", "docs/a%20b.png#x: no heading #x in docs/a b.png"),
        ("[x](/docs/page.md)", "/docs/page.md: relative to the root of a site; make it relative"),
        ("[x]()", "a link without a target"),
        ("[![x](none.png)](docs)", "none.png: no file none.png in the repository"),
        ("[x][none]", "[none] is not defined on this page"),
        ("[x]: none.md", "none.md: no file none.md in the repository"),
        ('<img src="none.png">', "none.png: no file none.png in the repository"),
    ],
)
def test_a_dead_link_is_named_with_its_line(repository: Path, link: str, fault: str) -> None:
    (repository / "page.md").write_text(f"# Page\n\n{link}\n", encoding="utf-8")
    if link.startswith("[x](#"):
        (repository / "README.md").write_text(link, encoding="utf-8")
        (found,) = Repository(repository).faults("README.md")
        assert found.startswith(f"README.md:1: {fault}")
        return
    (found,) = Repository(repository).faults("page.md")
    assert found.startswith(f"page.md:3: {fault}")


@pytest.mark.parametrize(
    "code", ["`[x](none.md)`", "``a`[x](none.md)``", "```\n[x](none.md)\n```", "~~~md\n[x][y]\n~~~"]
)
def test_code_has_no_links(repository: Path, code: str) -> None:
    (repository / "page.md").write_text(f"before\n\n{code}\n\nafter\n", encoding="utf-8")
    assert list(Repository(repository).faults("page.md")) == []


def test_headings_in_code_are_not_anchors() -> None:
    assert anchors("# One\n```sh\n# two\n```\n# Three's a `crowd`!\n") == {"one", "threes-a-crowd"}


def test_the_command_lists_dead_links_and_fails(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    scripts = repository / "scripts"
    scripts.mkdir()
    command = scripts / "links.py"
    command.write_bytes((ROOT / "scripts" / "links.py").read_bytes())

    def check(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, command, *words], cwd=repository, capture_output=True, encoding="utf-8"
        )

    assert (check().returncode, check().stderr) == (0, "")
    (repository / "page.md").write_text("[x](none.md)\n", encoding="utf-8")
    assert check("README.md").returncode == 0
    done = check()
    assert done.returncode == 1
    assert done.stderr == "links: page.md:1: none.md: no file none.md in the repository\n"
    assert check("absent.md").returncode == 2
    (repository / ".git").rename(repository / "git")
    assert check().returncode == 2
    assert "no git repository" in check().stderr
