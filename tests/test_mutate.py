"""scripts/mutate.py: which bugs it makes, which tests it runs, and that the tree stays as it is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import mutate
import pytest
from support import ROOT, run

HERE = Path("m.py")


def made(source: str) -> list[str]:
    """The source with each of its mutants."""
    return [m.source(source.encode()).decode() for m in mutate.mutants(HERE, source.encode())]


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        ("x = a < b", ["x = (a <= b)"]),
        ("x = a is None", ["x = (a is not None)"]),
        ("x = a and b", ["x = (a or b)"]),
        ("x = a + b", ["x = (a - b)"]),
        ("x = not a", ["x = (a)"]),
        ("x = 1, True", ["x = 2, True", "x = 1, False"]),
        ("x = f(a, b=c, d=e)", ["x = (f(a, b=c))", "x = (f(a, d=e))"]),
        ("x = {'a': b, **c}", ["x = ({'a': b})", "x = ({**c})"]),
        ("x = a if b else c", ["x = (a if not b else c)"]),
        ("def f():\n    return a", ["def f():\n    return None"]),
        ("if a:\n    b = c", ["if (not a):\n    b = c"]),
        (
            "def f():\n    while a and b:\n        x = y",
            [
                "def f():\n    while (a or b):\n        x = y",
                "def f():\n    while (not (a and b)):\n        x = y",
            ],
        ),
        ("for a in b:\n    break", ["for a in b:\n    continue"]),
        ("close()", ["pass"]),
        ("raise a", ["pass"]),
        ("x += a", ["pass", "x -= a"]),
        ("x = 'é' ; y = a < b", ["x = 'é' ; y = (a <= b)"]),
        ("x: Literal[1] = a", []),
        ("def f(a: int = b) -> Literal[True]: ...", []),
        ("import a\nfrom b import c", []),
        ("'''Prose.'''", []),
        ("__all__ = [*a, *b]", []),
        ("if TYPE_CHECKING:\n    f(a=b)", []),
        ("@dataclass(frozen=True)\nclass C:\n    a: int", []),
        ('T = TypeVar("T", bound=int)', []),
        ("x = f'{1}'", []),
    ],
)
def test_the_mutants_of_a_line(source: str, mutants: list[str]) -> None:
    assert made(source) == mutants


def test_a_survivor_is_shown_on_one_line_with_its_place() -> None:
    source = b"a = 1\nx = f(\n    b,\n    c=2,\n)\n"
    shown = [str(mutant) for mutant in mutate.mutants(HERE, source)]
    assert shown == ["m.py:1: 1  ->  2", "m.py:2: c=2 left out", "m.py:4: 2  ->  3"]


def test_every_test_sees_mutants_of_what_runs_on_import() -> None:
    """Not only those of the test that imports the module first, whose coverage it is."""
    source = b"a = 1\nclass C:\n    b = 2\n    def f(c=3):\n        return 4\nd = lambda: 5\n"
    lines = {number: ["first"] for number in range(1, 7)}
    tests = mutate.Tests(["tests"], {}, {HERE: lines})
    near = {mutant.before: tests.near(mutant) for mutant in mutate.mutants(HERE, source)}
    functions = {"4": ["first"], "return 4": ["first"], "5": ["first"]}
    assert near == {"1": [], "2": [], "3": []} | functions


def test_every_module_has_existing_tests() -> None:
    for path in mutate.files("smg_proto", ROOT):
        tests = mutate.tests_of(path, ROOT)
        if not tests and not mutate.mutants(path, (ROOT / path).read_bytes()):
            continue  # generated, but for a docstring
        assert tests, path
        assert [test for test in tests if not (ROOT / test).exists()] == []
    assert all((ROOT / prefix).exists() for prefix in mutate.TESTS)


def test_modules_are_named_by_path_or_by_name() -> None:
    errors = [Path("smg_proto/errors.py")]
    assert mutate.files("smg_proto/errors.py", ROOT) == errors
    assert mutate.files(str(ROOT / "smg_proto/errors.py"), ROOT) == errors
    assert mutate.files("smg_proto.errors", ROOT) == errors
    assert Path("smg_proto/compat/_load.py") in mutate.files("smg_proto.compat", ROOT)
    assert mutate.files("smg_proto.smg_pb2", ROOT) == []


MODULE = """\
LOW = 3
def is_low(x):
    return x < LOW
"""
ENDLESS = """\
def count(x):
    while True:
        x += x
        if x > 9:
            break
    return x
"""
TESTS = """\
from pkg import m


def test_low():
    assert m.is_low(2) is True and m.is_low(4) is False
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository of one module, whose tests do not look at the boundary of is_low."""
    for name, text in {
        "pkg/__init__.py": "",
        "pkg/m.py": MODULE,
        "tests/test_m.py": TESTS,
        "smg_proto/__init__.py": "",
        "smg_proto/_pytest_plugin.py": "",  # every pytest of our environment loads it
        "pyproject.toml": "[tool.pytest.ini_options]\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    run("git", "init", "-q", cwd=tmp_path)
    return tmp_path


def content(home: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(home).parts
    }


def mutated(root: Path, *words: str) -> int:
    """Its exit status, whichever way it ends."""
    try:
        return mutate.main(list(words), root)
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


@pytest.mark.packaging
def test_survivors_are_listed_and_the_tree_is_unchanged(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(project)
    assert mutated(project, "pkg/m.py", "--jobs", "2") == 1
    output = capsys.readouterr().out.splitlines()
    # One in a new process, since it changes what runs on import; the other two in a fork.
    assert sorted(output[:-4]) == ["pkg/m.py:1: 3  ->  4", "pkg/m.py:3: x < LOW  ->  (x <= LOW)"]
    assert output[-1] == "| `pkg/m.py` | 3 | 1 | 2 |"
    assert content(project) == before


@pytest.mark.packaging
def test_a_mutant_does_not_stay_for_the_next_ones(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pkg" / "m.py").write_text(
        "def one():\n    return 1\ndef two(x):\n    return x < 3\n", encoding="utf-8"
    )
    (project / "tests" / "test_m.py").write_text(
        "from pkg import m\ndef test(): assert m.one() == 1 and m.two(2)\n", encoding="utf-8"
    )
    assert mutated(project, "pkg/m.py") == 1
    output = capsys.readouterr().out.splitlines()
    assert output[:-4] == ["pkg/m.py:4: x < 3  ->  (x <= 3)", "pkg/m.py:4: 3  ->  4"]


@pytest.mark.packaging
def test_an_endless_mutant_is_killed(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "pkg" / "m.py").write_text(ENDLESS, encoding="utf-8")
    (project / "tests" / "test_m.py").write_text(
        "from pkg import m\ndef test_count(): assert m.count(5) == 10\n", encoding="utf-8"
    )
    monkeypatch.setattr(mutate, "MIN_SECONDS", 1)
    monkeypatch.setattr(mutate, "TIMES", 2)
    one = [m for m in mutate.mutants(HERE, ENDLESS.encode()) if m.before == "break"]
    endless = [replace(mutant, path=Path("pkg/m.py")) for mutant in one]
    assert mutate.survivors(endless, ["tests/test_m.py"], project, 1) == []


def test_no_survivor_is_status_0_and_a_sample_is_the_same_each_time(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sequence[mutate.Mutant]] = []

    def none(chosen: Sequence[mutate.Mutant], *rest: object) -> list[mutate.Mutant]:
        seen.append(chosen)
        return []

    monkeypatch.setattr(mutate, "survivors", none)
    for _ in range(2):
        assert mutated(project, "pkg.m", "--sample", "2") == 0
    assert len(seen[0]) == 2 and seen[0] == seen[1]
    assert capsys.readouterr().out.splitlines()[-1] == "| `pkg.m` | 2 | 2 | 0 |"


@pytest.mark.packaging
@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["pkg/none.py"], "no hand-written module 'pkg/none.py'"),
        (["pkg/m.py", "--sample", "0"], "1 or more"),
        (["pkg/m.py", "--tests", "tests/none.py"], "fail without a mutant"),
    ],
)
def test_a_usage_error_is_status_2(
    words: list[str], output: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mutated(project, *words) == 2
    assert output in capsys.readouterr().err


@pytest.mark.packaging
def test_only_the_tests_that_run_a_line_see_its_mutants(project: Path) -> None:
    other = "def test_other():\n    pass\n"
    (project / "tests" / "test_other.py").write_text(other, encoding="utf-8")
    with TemporaryDirectory() as home:
        tests = mutate.Copy(project, Path(home).resolve()).measure(["tests"], [Path("pkg/m.py")], 2)
    assert tests and tests.by_line == {
        Path("pkg/m.py"): {1: [""], 2: [""], 3: ["tests/test_m.py::test_low"]}
    }
