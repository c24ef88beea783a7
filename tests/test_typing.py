"""Type checkers, as a user of the installed package runs them, and over this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, make_environment, run, wheel_metadata

pytestmark = pytest.mark.typing

SAMPLES = sorted((ROOT / "tests" / "typing").glob("sample_*.py"))
MISTAKES = ROOT / "tests" / "typing" / "mistakes.py"
PACKAGES = ["smg_proto", "smg_grpc_proto"]


def requirements(wheel: Path) -> list[str]:
    """The wheel with all of its extras, and what else its own code is checked with."""
    extras = wheel_metadata(wheel).get_all("Provides-Extra", [])
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    types = re.findall(r'^    "(types-.+)",$', project, re.MULTILINE)
    package = f"smg-grpc-proto[{','.join(sorted(extras))}] @ {wheel.as_uri()}"
    return [package, "pytest", *types]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a user's environment: nothing of this checkout."""
    return make_environment(tmp_path_factory.mktemp("user") / "env", requirements(wheel))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of the user's: the sample programs and the mistakes."""
    for source in [*SAMPLES, MISTAKES]:
        shutil.copy(source, tmp_path)
    return tmp_path


def mypy(python: Path, *words: str, cwd: Path) -> str:
    """What mypy --strict prints, without any configuration."""
    # mypy fails if two of it write one cache at the same time.
    cache = ROOT / ".cache" / f"mypy-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    options = ["--strict", "--config-file=", f"--cache-dir={cache}"]
    command = [sys.executable, "-m", "mypy", f"--python-executable={python}", *options, *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def pyright(python: Path, *include: str, cwd: Path) -> list[dict[str, Any]]:
    """The errors and warnings of pyright in strict mode."""
    config = {
        "typeCheckingMode": "strict",
        "include": include,
        "exclude": ["**/*_pb2.py", "**/*_pb2_grpc.py"],  # their types are in the .pyi beside them
    }
    (cwd / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    output = run("pyright", "--outputjson", "--pythonpath", python, cwd=cwd, check=False)
    report = json.loads(output)
    assert report["summary"]["filesAnalyzed"] >= len(include)
    found: list[dict[str, Any]] = report["generalDiagnostics"]
    return found


def test_mypy_finds_nothing_in_the_samples(python: Path, folder: Path) -> None:
    output = mypy(python, *(path.name for path in SAMPLES), cwd=folder)
    assert output == f"Success: no issues found in {len(SAMPLES)} source files\n"


def test_pyright_finds_nothing_in_the_samples(python: Path, folder: Path) -> None:
    assert pyright(python, *(path.name for path in SAMPLES), cwd=folder) == []


def test_samples_are_clean_at_the_floors_of_the_extra(
    wheel: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    required = wheel_metadata(wheel).get_all("Requires-Dist", [])
    floors = [
        line.partition(";")[0].replace(">=", "==") + ".*"
        for line in required
        if line.endswith("extra == 'types'")
    ]
    assert len(floors) == 2
    home = tmp_path_factory.mktemp("floors") / "env"
    python = make_environment(home, [*requirements(wheel), *floors])
    names = [path.name for path in SAMPLES]
    assert mypy(python, *names, cwd=folder).startswith("Success")
    assert pyright(python, *names, cwd=folder) == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples_run(sample: Path, python: Path, tmp_path: Path) -> None:
    run(python, "-W", "error", sample, cwd=tmp_path)


def marked() -> set[int]:
    lines = MISTAKES.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if "  # wrong" in line}


def test_mypy_flags_every_mistake_and_nothing_else(python: Path, folder: Path) -> None:
    output = mypy(python, MISTAKES.name, cwd=folder)
    assert {int(line) for line in re.findall(r"mistakes\.py:(\d+): error", output)} == marked()


def test_pyright_flags_every_mistake_and_nothing_else(python: Path, folder: Path) -> None:
    found = pyright(python, MISTAKES.name, cwd=folder)
    assert {one["range"]["start"]["line"] + 1 for one in found} == marked()
    assert len(marked()) >= 25


def test_mypy_finds_nothing_in_the_package(python: Path, tmp_path: Path) -> None:
    words = [word for package in PACKAGES for word in ("--package", package)]
    assert mypy(python, *words, cwd=tmp_path).startswith("Success: no issues found in ")


def test_pyright_finds_nothing_in_the_package(python: Path, tmp_path: Path) -> None:
    code = "import smg_proto; print(smg_proto.__path__[0])"
    installed = Path(run(python, "-c", code, cwd=tmp_path).strip()).parent
    assert pyright(python, *PACKAGES, cwd=installed) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_type_is_complete(package: str, python: Path, tmp_path: Path) -> None:
    # In this mode pyright takes the environment of the python that comes first in PATH.
    beside = Path(sys.executable).parent
    path = os.pathsep.join([str(python.parent), str(beside), os.environ["PATH"]])
    command = ["pyright", "--verifytypes", package, "--ignoreexternal", "--outputjson"]
    found = json.loads(run(*command, cwd=tmp_path, check=False, PATH=path))["typeCompleteness"]
    assert Path(found["moduleRootDirectory"]).is_relative_to(python.parents[1])
    incomplete = [symbol["name"] for symbol in found["symbols"] if not symbol["isTypeKnown"]]
    assert not incomplete and found["completenessScore"] == 1
    assert found["exportedSymbolCounts"]["withKnownType"] > 0


@pytest.mark.parametrize(
    "command",
    [
        ["pyrefly", "check", "--python-interpreter-path", sys.executable],
        ["ty", "check", "--python", sys.executable],
    ],
    ids=lambda command: command[0],
)
def test_other_checkers_find_nothing_in_the_client_and_its_sample(command: list[str]) -> None:
    """Its hand-written code; in the generated stubs they know grpc's types otherwise."""
    run(*command, "smg_proto/vllm", "tests/typing/sample_vllm_client.py", cwd=ROOT)


def test_mypy_finds_nothing_in_the_repository() -> None:
    programs = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    run("mypy", *PACKAGES, "tests", *programs, cwd=ROOT)
    # All of one module name, so they are excluded above and come one by one.
    for conftest in (ROOT / "tests").glob("*/**/conftest.py"):
        run("mypy", conftest, cwd=ROOT, MYPYPATH=f"tests:{conftest.parent}")


def test_pyright_finds_nothing_in_the_repository() -> None:
    run("pyright", "scripts", "examples", cwd=ROOT)  # the package is looked at as installed, above
