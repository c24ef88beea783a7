#!/usr/bin/env python3
"""Put small bugs (mutants) into modules, one at a time, and list those that no test notices.

    scripts/mutate.py smg_proto/errors.py               every mutant of a module
    scripts/mutate.py smg_proto.compat --sample 40      forty of a package, always the same
    scripts/mutate.py smg_proto/errors.py --tests tests/test_errors.py --jobs 2

Each mutant runs in a copy of the repository until a test fails. The tests are those of the module
(TESTS below) that run its line, the quickest first; or all of them, if none does in this process.
Exit status: 0 all mutants were noticed, 1 some survived, 2 usage error, or the tests fail without
a mutant.
"""

import argparse
import ast
import copy
import json
import math
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import _runner
import _venv
import coverage

# The tests of a module, by the longest prefix of its path. Otherwise, tests/ mirrors smg_proto/.
TESTS = {
    "smg_proto/__init__.py": ["tests/test_package.py"],
    "smg_proto/__main__.py": ["tests/cli"],
    "smg_proto/_google_rpc.py": ["tests/test_standard.py", "tests/test_errors.py"],
    "smg_proto/_descriptors.py": ["tests/cli", "tests/compat/test_load.py"],
    "smg_proto/_http/sse.py": [
        "tests/frontdoor/test_sse.py",
        "tests/frontdoor/test_broken_streams.py",
    ],
    "smg_proto/_http": ["tests/frontdoor", "tests/llm"],
    "smg_proto/_pytest_plugin.py": ["tests/testing/test_plugin.py"],
    "smg_proto/engine": ["tests/engine", "tests/engines"],
    "smg_proto/errors.py": ["tests/test_errors.py", "tests/test_smg_v1.py"],
    "smg_proto/testing/_engine": ["tests/testing", "tests/engines"],
    "smg_proto/_target.py": ["tests/helpers/test_connect.py", "tests/vllm/test_connection.py"],
    "smg_proto/_channel.py": [
        "tests/vllm/test_connection.py",
        "tests/vllm/test_results.py",
        "tests/vllm/test_settings.py",
        "tests/engine/test_bad_input.py",
        "tests/engine/test_streams.py",
        "tests/helpers/test_connect.py",
    ],
    "smg_proto/_probe": ["tests/engine/test_detect.py", "tests/compat/test_check_hostile.py"],
    "smg_proto/_tokens": ["tests/vllm/test_tokenizer.py", "tests/vllm/test_decode.py"],
    "smg_proto/_connect.py": ["tests/helpers/test_connect.py"],
    "smg_proto/build.py": ["tests/helpers/test_build.py"],
    "smg_proto/streams.py": ["tests/helpers/test_streams.py"],
    "smg_proto/cli/_check.py": [
        "tests/compat/test_check.py",
        "tests/compat/test_check_hostile.py",
        "tests/cli/test_options.py",
    ],
    "smg_proto/cli/_demo.py": ["tests/testing/test_demo.py", "tests/cli/test_options.py"],
    "smg_proto/cli/_diff.py": [
        "tests/compat/test_load.py",
        "tests/compat/test_edits.py",
        "tests/compat/test_repository.py",
        "tests/cli/test_options.py",
    ],
    "smg_proto/cli/_serve.py": [
        "tests/frontdoor/test_serve_options.py",
        "tests/frontdoor/test_serve.py",
        "tests/cli/test_options.py",
    ],
}
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
}
# A mutant counts as endless, and therefore as noticed, after this many seconds plus this many times
# the duration of its tests without one.
MIN_SECONDS, TIMES = 20, 5
MAX_NAMED = 300  # tests in the arguments of a new process


@dataclass(frozen=True)
class Mutant:
    path: Path
    line: int
    start: int  # bytes of the source that are replaced
    end: int
    before: str
    after: str
    omitted: str = ""  # the argument or entry that is left out
    on_import: bool = False  # in no function

    def source(self, original: bytes) -> bytes:
        """With as many lines as the original has."""
        lines = "\n" * self.before.count("\n")
        after = f"{self.after[:-1]}{lines})" if self.after.endswith(")") else self.after + lines
        return original[: self.start] + after.encode() + original[self.end :]

    def __str__(self) -> str:
        before, after = (" ".join(text.split())[:100] for text in (self.before, self.after))
        what = f"{before}  ->  {after}" if not self.omitted else f"{self.omitted} left out"
        return f"{self.path}:{self.line}: {what}"


def mutants(path: Path, source: bytes) -> list[Mutant]:
    """Every mutant of a file, in order."""
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    mutants: list[Mutant] = []
    tree = ast.parse(source)
    in_functions = {id(inner) for node in ast.walk(tree) for inner in _body(node)}
    for node in _code(tree):
        on_import = id(node) not in in_functions
        changes = dict(_changes(node))
        if isinstance(node, ast.If | ast.While):
            node = node.test
            if not dict(_changes(node)) or not isinstance(node, ast.Compare | ast.UnaryOp):
                changes[f"({ast.unparse(ast.UnaryOp(ast.Not(), node))})"] = ""
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        before = source[start:end].decode()
        for after, omitted in changes.items():
            where = (path, node.lineno, start, end)
            mutants.append(Mutant(*where, before, after, omitted, on_import))
    return sorted(mutants, key=lambda mutant: (mutant.start, mutant.after))


def _body(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a function is called; nothing for another node."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for child in node.body if isinstance(node.body, list) else [node.body]:
            yield from ast.walk(child)


def _code(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """The nodes that run and have a source position: no annotations, imports, f-string parts."""
    types = [getattr(node, name, None) for name in ("annotation", "returns")]
    for child in ast.iter_child_nodes(node):
        if child in types or _has_no_effect(child):
            continue
        if isinstance(child, ast.expr | ast.stmt):
            yield child
        if not isinstance(child, ast.JoinedStr):
            yield from _code(child)


def _has_no_effect(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]) | ast.If(test=ast.Name("TYPE_CHECKING")):
            return True
        case ast.Call(func=ast.Name(id="dataclass" | "TypeVar")):
            return True
        case _:
            return False


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[str, str]]:
    """The mutated texts of a node, each with the argument or entry that it leaves out."""

    def changed(**changes: object) -> str:
        other = copy.copy(node)
        for name, value in changes.items():
            setattr(other, name, value)
        text = ast.unparse(ast.fix_missing_locations(other))
        return f"({text})" if isinstance(node, ast.expr) else text

    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield changed(ops=[SWAPS[type(op)]()]), ""
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPS:
            yield changed(op=SWAPS[type(op)]()), ""
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield f"({ast.unparse(operand)})", ""
        case ast.Constant(value=bool(value)):
            yield str(not value), ""
        case ast.Constant(value=int(value)):
            yield str(value + 1), ""
        case ast.Call(keywords=keywords):
            for number, keyword in enumerate(keywords):
                text = changed(keywords=keywords[:number] + keywords[number + 1 :])
                yield text, ast.unparse(keyword)
        case ast.Dict(keys=keys, values=values):
            for number, (key, value) in enumerate(zip(keys, values, strict=True)):
                rest = values[:number] + values[number + 1 :]
                text = changed(keys=keys[:number] + keys[number + 1 :], values=rest)
                yield text, ast.unparse(key or value)
        case ast.IfExp(test=test):
            yield changed(test=ast.UnaryOp(ast.Not(), test)), ""
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield "return None", ""
        case ast.Break():
            yield "continue", ""
        case ast.Continue():
            yield "break", ""
        case _:
            pass
    if isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete):
        yield "pass", ""


@dataclass(frozen=True)
class Tests:
    """The tests of some modules, as a run without a mutant found them."""

    places: Sequence[str]  # files and folders
    durations: Mapping[str, float]  # of each test, by its name
    by_line: Mapping[Path, Mapping[int, Sequence[str]]]
    quick: float = math.inf  # longer tests are left out

    def near(self, mutant: Mutant) -> list[str]:
        """The tests that run the lines of the mutant, the quickest first.

        Empty if no test of this process does, or if they also run on import, be it in the test
        that imports the module first.
        """
        if mutant.on_import:
            return []
        lines = range(mutant.line, mutant.line + mutant.before.count("\n") + 1)
        names = {name for line in lines for name in self.by_line[mutant.path].get(line, [])}
        return [] if "" in names else self._chosen(names)

    def of_new_process(self, mutant: Mutant) -> Sequence[str]:
        """Those of its lines or else its module, if only quick ones are asked for; or all."""
        near = self.near(mutant)
        lines = self.by_line[mutant.path].values()
        if not near and self.quick < math.inf:
            near = self._chosen({name for names in lines for name in names} - {""})[:MAX_NAMED]
        return near if 0 < len(near) <= MAX_NAMED else self.places

    def _chosen(self, names: set[str]) -> list[str]:
        ordered = sorted(names, key=lambda name: self.durations.get(name, 0))
        return [name for name in ordered if self.durations.get(name, 0) <= self.quick] or ordered

    def seconds(self, names: Sequence[str]) -> float:
        """When a run of these counts as endless."""
        known = sum(self.durations.get(name, 0) for name in names)
        return MIN_SECONDS + TIMES * (known or sum(self.durations.values()))

    @property
    def timeout(self) -> str:
        """The option for one test that does not end."""
        return f"--timeout={MIN_SECONDS + TIMES * max(self.durations.values(), default=0)}"


class Copy:
    """A copy of the repository with its own environment, which runs one mutant at a time."""

    def __init__(self, root: Path, home: Path) -> None:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=root, capture_output=True, check=True).stdout
        for name in filter(None, names.decode().split("\0")):
            if (root / name).is_file():
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, home / name)
        self._home = home
        self._forks: subprocess.Popen[str] | None = None
        self._python = home / ".venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / ".venv"], check=True)
        # First the copy, then the packages of this environment, without its own link to `root`.
        (packages,) = (home / ".venv").glob("lib/python*/site-packages")
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        for program in Path(sys.executable).parent.iterdir():  # buf and the like
            place = self._python.with_name(program.name)
            if program.is_file() and program.read_bytes()[:2] != b"#!" and not place.exists():
                place.symlink_to(program)
        (packages / "copy.pth").write_text(f"{home}\n{ours}\n", encoding="utf-8")

    def measure(
        self, places: Sequence[str], paths: Iterable[Path], jobs: int = 1, quick: float = math.inf
    ) -> Tests | None:
        """Run the tests without a mutant; None if one fails."""
        package = next(iter(paths)).parts[0]
        coverages = [f"--cov={package}", "--cov-context=test", "--cov-report=", "-n", str(jobs)]
        durations = self._home / "durations.json"
        process = self._start("--durations-to", str(durations), *coverages, *places)
        try:
            if process.wait():
                return None
        finally:
            _kill(process)
        data = coverage.CoverageData(str(self._home / ".coverage"))
        data.read()
        seconds = json.loads(durations.read_text(encoding="utf-8"))
        return Tests(
            places,
            seconds,
            {path: _tests_by_line(data, self._home / path) for path in paths},
            quick,
        )

    def survives(self, mutant: Mutant, tests: Tests) -> bool:
        path = self._home / mutant.path
        original = path.read_bytes()
        near = tests.near(mutant)
        forks = self._loaded(tests) if near else None
        for stale in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            stale.unlink()
        path.write_bytes(mutant.source(original))
        try:
            reply = self._fork(forks, path, original, near, tests) if forks else "unable"
            if reply == "unable":
                reply = self._run(tests.of_new_process(mutant), tests)
            return reply == "passed"
        finally:
            path.write_bytes(original)

    def close(self) -> None:
        if self._forks:
            _kill(self._forks)

    def _loaded(self, tests: Tests) -> subprocess.Popen[str] | None:
        """A process that has loaded everything, which it must do while there is no mutant."""
        if not self._forks or self._forks.poll() is not None:
            self._forks = self._start("--forks", tests.timeout, *tests.places)
            assert self._forks.stdout
            if self._forks.stdout.readline() != "ready\n":
                return None
        return self._forks

    def _fork(
        self,
        forks: subprocess.Popen[str],
        path: Path,
        original: bytes,
        names: list[str],
        tests: Tests,
    ) -> str:
        """The reply of a fork of that process."""
        assert forks.stdin and forks.stdout
        request = {
            "module": str(path),
            "before": original.decode(),
            "after": path.read_text(encoding="utf-8"),
            "tests": names,
            "seconds": tests.seconds(names),
        }
        print(json.dumps(request), file=forks.stdin, flush=True)
        return forks.stdout.readline().strip() or "unable"

    def _run(self, names: Sequence[str], tests: Tests) -> str:
        """The same from a new process. Tests that failed last run first."""
        durations = str(self._home / "durations.json")
        process = self._start("--durations-to", durations, "-x", "--ff", tests.timeout, *names)
        try:
            return "failed" if process.wait(tests.seconds(names)) else "passed"
        except subprocess.TimeoutExpired:
            return "failed"
        finally:
            _kill(process)

    def _start(self, *words: str) -> subprocess.Popen[str]:
        chosen = " and ".join(f"not {_runner.marker(name)}" for name in [*_runner.groups()][2:])
        forks = Path(__file__).with_name("_forks.py")
        command = [str(self._python), str(forks), *words, "-q", "-m", chosen]
        path = os.pathsep.join([str(self._python.parent), os.environ.get("PATH", "")])
        return subprocess.Popen(
            command,
            cwd=self._home,
            env=_venv.environment()
            | {"PATH": path, "VIRTUAL_ENV": str(self._home / ".venv")}
            | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )


def _kill(process: subprocess.Popen[str]) -> None:
    with process, suppress(ProcessLookupError):  # what the tests have started too
        os.killpg(process.pid, signal.SIGKILL)


def _tests_by_line(data: coverage.CoverageData, path: Path) -> dict[int, list[str]]:
    """The tests that ran each line of a module; "" for what ran on import."""
    return {
        line: sorted({name.rpartition("|")[0] for name in names})
        for line, names in data.contexts_by_lineno(str(path)).items()
    }


def files(name: str, root: Path) -> list[Path]:
    """The hand-written modules of a path or a dotted name below the root."""
    path = Path(name if "/" in name or name.endswith(".py") else name.replace(".", "/"))
    path = path.relative_to(root) if path.is_absolute() else path
    if (root / path).is_dir():
        files = sorted((root / path).rglob("*.py"))
    else:
        files = [file for file in (root / path, root / f"{path}.py") if file.is_file()]
    return [
        file.relative_to(root)
        for file in files
        if "_pb2" not in file.name and file.parent.name != "_sync"  # generated
    ]


def tests_of(path: Path, root: Path) -> list[str]:
    """The tests of a module: from TESTS, or else those at the same place as the module."""
    prefixes = [path.as_posix(), *(parent.as_posix() for parent in path.parents)]
    if known := next((TESTS[prefix] for prefix in prefixes if prefix in TESTS), None):
        return known
    top = path.parts[1].lstrip("_")
    places = [Path("tests", top), Path("tests", f"test_{top}")]  # of a package, of a module
    return [str(place) for place in places if (root / place).exists()]


def survivors(
    chosen: Sequence[Mutant],
    places: Sequence[str],
    root: Path,
    jobs: int = 1,
    quick: float = math.inf,
) -> list[Mutant] | None:
    """The mutants that the tests do not notice; None if the tests fail without a mutant."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(min(jobs, max(1, len(chosen)))):
            copies.put(
                stack.enter_context(closing(Copy(root, Path(folder).resolve() / str(number))))
            )
        first = copies.get()
        tests = first.measure(places, {mutant.path for mutant in chosen}, jobs, quick)
        if tests is None:
            return None
        copies.put(first)

        def survives(mutant: Mutant) -> bool:
            free_copy = copies.get()
            try:
                survived = free_copy.survives(mutant, tests)
            finally:
                copies.put(free_copy)
            if survived:
                print(mutant, flush=True)
            return survived

        with ThreadPoolExecutor(jobs) as pool:
            results = zip(chosen, pool.map(survives, chosen), strict=True)
            return [mutant for mutant, survived in results if survived]


def main(words: Sequence[str] | None = None, root: Path = _venv.ROOT) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--tests", nargs="+", help="run these instead of the tests of the module")
    parser.add_argument("--sample", type=int, metavar="N", help="try at most N mutants per MODULE")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="run N mutants in parallel"
    )
    parser.add_argument(
        "--quick",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="leave out tests that take longer, and most where a mutant runs on import: "
        "takes less time, and lists some that all tests would notice",
    )
    args = parser.parse_args(words)
    if args.jobs < 1 or (args.sample is not None and args.sample < 1):
        parser.error("--jobs and --sample must be 1 or more")
    rows: list[str] = []
    total = 0
    for name in args.modules:
        paths = files(name, root)
        if not paths:
            parser.error(f"no hand-written module {name!r} below {root}")
        chosen = [m for path in paths for m in mutants(path, (root / path).read_bytes())]
        if args.sample is not None and args.sample < len(chosen):
            chosen = random.Random(0).sample(chosen, args.sample)
        survived = 0
        groups: dict[tuple[str, ...], list[Mutant]] = {}
        for mutant in sorted(chosen, key=lambda mutant: (mutant.path, mutant.start)):
            tests = tuple(args.tests or tests_of(mutant.path, root))
            if not tests:
                parser.error(f"no tests known for {mutant.path}; give them with --tests")
            groups.setdefault(tests, []).append(mutant)
        for tests, own in groups.items():
            result = survivors(own, tests, root, args.jobs, args.quick)
            if result is None:
                parser.error(f"{' '.join(tests)} fail without a mutant; fix them first")
            survived += len(result)
        total += survived
        rows.append(f"| `{name}` | {len(chosen)} | {len(chosen) - survived} | {survived} |")
    print("\n| module | mutants | noticed | survive |\n|---|---:|---:|---:|", *rows, sep="\n")
    return 1 if total else 0


if __name__ == "__main__":
    _venv.enter()
    sys.exit(main())
