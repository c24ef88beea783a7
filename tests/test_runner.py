"""scripts/test and scripts/quickstart, for the person who runs them: what they say, and when."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _runner
import _venv
import pytest
from support import MARKED, ROOT, need, old_python, run

ENTRIES = ["scripts/test", "scripts/quickstart"]


def script(*words: str, python: str = sys.executable, **env: str) -> tuple[int, str]:
    """Status and what came to standard error."""
    done = subprocess.run(
        [python, *words], capture_output=True, text=True, env=os.environ | env, timeout=100
    )
    return done.returncode, done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the set-up reads, to do harm to."""
    home = tmp_path / "checkout"
    shutil.copytree(
        ROOT / "scripts", home / "scripts", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", home)
    return home


def ready(checkout: Path) -> Path:
    """A .venv that its stamp calls ready: the path of its Python, which is not there yet."""
    code = "import _venv; print(_venv.wanted())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout / "scripts")
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    for purpose in ("dev", "base"):
        (venv / f"ready-{purpose}").write_text(done.stdout.strip(), encoding="utf-8")
    return venv / "bin" / "python"


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("version", ["2.7", "3.6", "3.8", "3.9"])
def test_an_old_python_is_reported_in_one_line(version: str, entry: str) -> None:
    status, output = script(str(ROOT / entry), python=old_python(version))
    assert status == 2
    assert re.fullmatch(rf".*{entry}: Python {version} is too old: .* 3\.10 .*\n", output)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_python_below_the_oldest_is_too_old(entry: str) -> None:
    code = (
        f"import runpy, sys; sys.version_info = (3, 9, 30); runpy.run_path({str(ROOT / entry)!r})"
    )
    status, output = script("-c", code, PYTHONPATH=str(ROOT / "scripts"))
    assert status == 2 and "Python 3.9 is too old" in output and output.count("\n") == 1


def test_the_error_for_an_unknown_group_lists_the_groups() -> None:
    status, output = script(str(ROOT / "scripts/test"), "cor")
    assert (
        status == 2
        and "'cor'; choose from gate, core, typing" in output
        and output.count("\n") == 1
    )


def test_no_git_is_one_line(tmp_path: Path) -> None:
    status, output = script(str(ROOT / "scripts/test"), "core", PATH=str(tmp_path))
    assert status == 2 and output.startswith("test: git is not on PATH") and output.count("\n") == 1


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_unwritable_folder_is_one_line(entry: str, checkout: Path) -> None:
    (checkout / ".venv").touch()
    status, output = script(str(checkout / entry))
    assert status == 2 and f"{checkout}/.venv" in output and output.count("\n") == 1, output


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("harm", ["gone", "broken", "empty"])
def test_a_damaged_environment_is_one_line(harm: str, entry: str, checkout: Path) -> None:
    python = ready(checkout)
    if harm == "broken":
        python.write_bytes(b"\x7fELF and no more")
        python.chmod(0o755)
    elif harm == "empty":
        python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")  # as without a package
        python.chmod(0o755)
    status, output = script(str(checkout / entry))
    assert status == 2 and "is damaged" in output and "delete it" in output, output
    assert output.count("\n") == 1


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_environment_that_was_never_ready_and_does_not_run_is_one_line(
    entry: str, checkout: Path
) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_bytes(b"\x7fELF and no more")
    python.chmod(0o755)
    status, output = script(str(checkout / entry))
    assert status == 2 and f"{python} does not run" in output and "delete" in output, output
    assert output.count("\n") == 1


def test_an_environment_of_another_python_is_named(checkout: Path) -> None:
    python = ready(checkout)
    python.write_text("#!/bin/sh\necho 3.99\n", encoding="utf-8")
    python.chmod(0o755)
    command = [sys.executable, "-c", "import _venv; _venv.ensure('dev')"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout / "scripts")
    sent = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"{checkout}/.venv has Python 3.99; delete it to use {sent}\n" in done.stdout
    assert done.returncode == 0


@pytest.mark.packaging
@pytest.mark.parametrize("entry", ENTRIES)
def test_no_network_is_one_line(entry: str, checkout: Path) -> None:
    nowhere = "http://127.0.0.1:9/simple"
    status, output = script(
        str(checkout / entry),
        PIP_INDEX_URL=nowhere, PIP_FIND_LINKS="", PIP_NO_CACHE_DIR="1", PIP_RETRIES="0",
    )  # fmt: skip
    assert status == 2 and "check that a Python package index can be reached" in output, output
    assert output.count("\n") == 1


def test_commands_keep_compiled_modules_whatever_the_callers_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MY_SETTING", "kept")
    environment = _venv.environment()
    assert environment["MY_SETTING"] == "kept"
    assert not {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME"} & environment.keys()


def test_a_reason_is_the_error_and_its_innermost_cause() -> None:
    printed = "Resolving\nerror: Request failed\n  cause: a client\n  cause: connection refused\n"
    assert _venv._reason(printed) == "Request failed: connection refused"
    assert _venv._reason("WARNING: x\nERROR: No matching distribution\n") == (
        "No matching distribution"
    )
    assert _venv._reason("only this\n") == "only this"
    assert _venv._reason("") == "no output"


SUITE = """
import time, pytest

@pytest.mark.parametrize("number", range(3))
def test_fine(number): pass

def test_long(): time.sleep({long})

@pytest.mark.skipif(True, reason="no such program")
def test_skipped(): pass

def test_without(): pytest.skip("no Python 3.99")

{more}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one file of tests, for the runner to run."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text(
        "import progress\nfrom conftest_of_ours import pytest_addoption, pytest_configure\n"
        "progress.LONG = 0.3\n",
        encoding="utf-8",
    )
    (tmp_path / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\naddopts = '-p no:cacheprovider'\n"
        'markers = [\n    "slow_one: takes its time",\n]\n',
        encoding="utf-8",
    )
    (tmp_path / "conftest_of_ours.py").write_text(
        (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    paths = f"{tmp_path}{os.pathsep}{ROOT / 'tests'}"
    environment = _venv.environment() | {"PYTHONPATH": paths}
    monkeypatch.setattr(_venv, "environment", lambda: environment)
    monkeypatch.setattr(_venv, "ensure", lambda purpose: sys.executable)
    monkeypatch.setattr(_runner, "ROOT", tmp_path)
    monkeypatch.setattr(_runner, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.packaging
def test_a_run_prints_groups_times_and_reasons_of_skips(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    suite = SUITE.format(long=1, more="")
    (project / "tests" / "test_it.py").write_text(suite, encoding="utf-8")
    assert _runner.main(["core"]) == 0
    output = capfd.readouterr().out
    assert "== core: test behaviour over loopback" in output
    assert re.search(r"running for \d+ s: tests/test_it\.py::test_long", output)
    line = re.search(r"^core: (.+)$", output, re.MULTILINE)
    assert line
    assert re.fullmatch(
        r"4 passed, 0 failed, 2 skipped in \d+ s; "
        r"slowest: tests/test_it\.py::test_long, \d+\.\d s; "
        r"skipped: no Python 3\.99 \(1\), no such program \(1\)",
        line[1],
    )
    assert output.endswith("\n4 passed, 0 failed, 2 skipped\n")


@pytest.mark.packaging
@pytest.mark.parametrize(
    "more",
    [
        "def test_bad(): assert False",
        "@pytest.fixture\ndef bad(): 1 / 0\ndef test_bad(bad): pass",
        "import no_such_module",
        "import os\ndef test_bad(): os._exit(3)",
    ],
    ids=["failure", "error", "import", "crash"],
)
def test_failures_are_counted_and_the_status_is_1(
    more: str, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "tests" / "test_it.py").write_text(
        f"import pytest\npytestmark = pytest.mark.slow_one\ndef test_fine(): pass\n{more}\n",
        encoding="utf-8",
    )
    assert _runner.main(["slow"]) == 1
    output = capfd.readouterr().out
    assert "== slow-one: takes its time\n" in output
    assert re.search(r"\n[01] passed, 1 failed, 0 skipped\n\Z", output)


@pytest.mark.packaging
def test_a_group_that_runs_only_by_name_is_in_no_other_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_runner, "BY_NAME_ONLY", {"slow-one"})
    monkeypatch.setattr(_runner, "GATE", {})
    (project / "tests" / "test_it.py").write_text(
        "import pytest\n@pytest.mark.slow_one\ndef test_slow(): pass\ndef test_core(): pass\n",
        encoding="utf-8",
    )
    for words, counted in ([], "1"), (["slow"], "0"), (["slow-one"], "1"):
        assert _runner.main([*words]) == 0
        output = capfd.readouterr().out
        assert output.endswith(f"\n{counted} passed, 0 failed, 0 skipped\n")
        assert ("== slow-one: takes its time" in output) == (words == ["slow-one"])


def test_every_test_of_a_slow_group_is_in_a_file_that_names_the_group(
    pytestconfig: pytest.Config,
) -> None:
    found = pytestconfig.stash[MARKED]
    for group in [*_runner.groups()][2:]:
        files = {str(path) for name, path in found if name == _runner.marker(group)}
        assert files <= {*_runner.marked(group)}


def test_a_gate_that_cannot_run_is_status_2(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    exits = {str(code): ["python", "-c", f"raise SystemExit({code})"] for code in (0, 2)}
    monkeypatch.setattr(_runner, "GATE", exits)
    assert _runner.main(["gate"]) == 2
    assert capfd.readouterr().out.endswith("\n1 passed, 1 failed, 0 skipped\n")
    monkeypatch.setitem(exits, "none", ["no-such-tool"])
    assert _runner.main(["gate"]) == 2
    assert "gate: could not run no-such-tool: " in capfd.readouterr().err
    monkeypatch.setitem(exits, "1", ["python", "-c", "raise SystemExit(1)"])
    assert _runner.main(["gate"]) == 1


STUB = """\
import json, os, sys
from pathlib import Path
places = filter(os.path.isdir, os.environ["PATH"].split(os.pathsep))
told = {
    "groups": sys.argv[1:], "python": sys.version_info[1], "clone": os.path.isdir(".git"),
    "env": dict(os.environ), "home": os.listdir(Path.home()), "path": [*map(os.listdir, places)],
}
print("told", json.dumps(told))
print("3 passed, 0 failed, 1 skipped")
sys.exit("fails" in os.environ.get("PIP_CHOICE", ""))
"""


@pytest.fixture
def ci(tmp_path: Path) -> Callable[..., tuple[int, list[Any], str]]:
    """.ci/run in a repository whose scripts/test only tells what it was given."""
    bash = need("bash")
    home = tmp_path / "repository"
    for name, text in {
        ".ci/run": (ROOT / ".ci/run").read_text(encoding="utf-8"),
        "scripts/test": STUB,
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    for words in (["init", "-q"], ["add", "-A"]):
        run("git", *words, cwd=home)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    run("git", *who, "commit", "-q", "-m", "copy", cwd=home)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("pkg-config", "chromium"):  # so that nothing is left to install
        (programs / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (programs / name).chmod(0o755)

    def start(**env: str) -> tuple[int, list[Any], str]:
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [bash, ".ci/run"], cwd=home, env=os.environ | {"PATH": path} | env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        result = [json.loads(line[5:]) for line in lines if line.startswith("told ")]
        return done.returncode, result, lines[-1]

    return start


@pytest.mark.packaging
def test_ci_runs_fresh_clones_with_only_git_and_python_and_then_the_slow_groups(
    ci: Callable[..., tuple[int, list[Any], str]],
) -> None:
    status, (oldest, newest, slow), last = ci(
        MY_SETTING="x", GRPC_VERBOSITY="DEBUG", PYTHONPATH="/x", PIP_CHOICE="mine", no_proxy="a b"
    )
    assert status == 0 and last == "9 passed, 0 failed, 3 skipped"
    for fresh in (oldest, newest):
        assert fresh["groups"] == ["gate", "core"] and fresh["clone"]
        assert [sorted(names) for names in fresh["path"]] == [["git", "python3"]]
        assert fresh["home"] == []
    assert oldest["python"] == 10 < newest["python"]
    assert oldest["env"]["LC_ALL"] == "C" and oldest["env"]["TZ"] != newest["env"].get("TZ")
    assert slow["groups"] == ["slow"]
    for result in (newest, slow):
        assert not {"MY_SETTING", "GRPC_VERBOSITY", "PYTHONPATH"} & result["env"].keys()
        assert (result["env"]["PIP_CHOICE"], result["env"]["no_proxy"]) == ("mine", "a b")
        assert result["env"]["CI"] == "true"


@pytest.mark.packaging
def test_ci_fails_when_a_step_fails(ci: Callable[..., tuple[int, list[Any], str]]) -> None:
    assert ci(PIP_CHOICE="fails")[0] == 1
