"""The groups of checks and tests behind scripts/test."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import _venv

ROOT = _venv.ROOT
RESULTS = ROOT / ".cache" / "test"
GATE = {
    "generated code is up to date": ["python", "scripts/build.py", "--check"],
    "protos are clean": ["buf", "lint"],
    "protos are formatted": ["buf", "format", "--diff", "--exit-code"],
    "protos keep released contracts": ["python", "scripts/freeze.py", "check"],
    "code style": ["ruff", "check", "."],
    "code format": ["ruff", "format", "--check", "."],
    "links are valid": ["python", "scripts/links.py"],
    "workflows are safe": ["zizmor", "--offline", "--quiet", "--persona=pedantic", ".github"],
}
BY_NAME_ONLY = {"vllm-cpu"}  # groups that run only if named
# Groups whose tests are independent, and how many run in parallel: those of core mostly wait.
PARALLEL = {"core": 4, "typing": 2, "packaging": 3, "matrix": 2}


@dataclass
class Result:
    """The result of a group."""

    passed: int = 0
    failed: int = 0
    skipped: dict[str, int] = field(default_factory=dict[str, int])  # counts by reason
    slowest: tuple[str, float] | None = None
    seconds: float = 0.0
    unable: int = 0  # failed because a requirement is missing or damaged

    def __str__(self) -> str:
        words = f"{counts(self.passed, self.failed, sum(self.skipped.values()))}"
        words += f" in {self.seconds:.0f} s"
        if self.slowest:
            words += f"; slowest: {self.slowest[0]}, {self.slowest[1]:.1f} s"
        reasons = [f"{reason} ({count})" for reason, count in sorted(self.skipped.items())]
        return words + (f"; skipped: {', '.join(reasons)}" if reasons else "")


def counts(passed: int, failed: int, skipped: int) -> str:
    return f"{passed} passed, {failed} failed, {skipped} skipped"


def groups() -> dict[str, str]:
    """Every group with its description. All but the first two are markers in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text.partition("markers = [")[2].partition("\n]")[0]
    return {
        "gate": "check generated code, protos and style",
        "core": "test behaviour over loopback; needs only Python and git",
        **{
            marker.replace("_", "-"): what
            for marker, what in re.findall(r'^\s*"(\w+): (.+)"', block, re.MULTILINE)
        },
    }


def marker(group: str) -> str:
    return group.replace("-", "_")


def gate() -> Result:
    result = Result()
    for what, command in GATE.items():
        print(f"gate: {what}: {' '.join(command)}", flush=True)
        started = time.monotonic()
        try:
            with subprocess.Popen(command, cwd=ROOT, env=_venv.environment(), text=True) as process:
                _, status = _venv.watch(process)
        except OSError as error:
            print(
                f"gate: could not run {command[0]}: {error.strerror}; "
                f"delete {_venv.VENV} and run this again",
                file=sys.stderr,
            )
            status = 2
        seconds = time.monotonic() - started
        if result.slowest is None or seconds > result.slowest[1]:
            result.slowest = (" ".join(command), seconds)
        result.passed += not status
        result.failed += bool(status)
        result.unable += status == 2
    return result


def marked(group: str) -> list[str]:
    """The files with tests of a group, so that pytest need not collect the others."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        str(file) for file in files if f"mark.{marker(group)}" in file.read_text(encoding="utf-8")
    ]


def pytest(group: str, slow: list[str], extra: list[str]) -> Result:
    report = RESULTS / f"{group}.json"
    report.unlink(missing_ok=True)
    chosen = marker(group)
    if group == "core":
        chosen = " and ".join(f"not {marker(name)}" for name in slow)
    command = ["python", "-m", "pytest", "-q", "-m", chosen, f"--summary={report}"]
    command += ["-n", str(PARALLEL[group])] if group in PARALLEL else []
    command += [] if extra or group == "core" else marked(group)
    status = subprocess.run([*command, *extra], cwd=ROOT, env=_venv.environment()).returncode
    if not report.exists():
        return Result(failed=1)
    counted: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    result = Result(*(counted[name] for name in ("passed", "failed", "skipped", "slowest")))
    if status not in (0, 5) and not result.failed:  # 5: the group has no tests
        result.failed = 1
    return result


def main(words: list[str]) -> int:
    extra = words[words.index("--") + 1 :] if "--" in words else []
    named = words[: words.index("--")] if "--" in words else words
    known = groups()
    slow = [*known][2:]
    if not named:
        named = ["gate", "core", "slow"]
    if "slow" in named:
        at = named.index("slow")
        named[at : at + 1] = [name for name in slow if name not in BY_NAME_ONLY]
    if {"-h", "--help", "--list"} & {*named}:
        print("\n".join(f"{name:10} {what}" for name, what in known.items()))
        return 0
    if wrong := [name for name in named if name not in known]:
        _venv.stop(f"no group {wrong[0]!r}; choose from {', '.join(known)}")
    if not shutil.which("git"):
        _venv.stop("git is not on PATH, but the checks read the repository; install it")
    os.chdir(ROOT)
    _venv.ensure("dev")
    try:
        RESULTS.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _venv.stop(f"could not write {RESULTS}: {error.strerror}; make it a writable directory")
    results: dict[str, Result] = {}
    for group in dict.fromkeys(named):
        print(f"\n== {group}: {known[group]}", flush=True)
        started = time.monotonic()
        try:
            result = gate() if group == "gate" else pytest(group, slow, extra)
        except KeyboardInterrupt:
            return 130
        result.seconds = time.monotonic() - started
        results[group] = result
        print(f"== {group}: {result}", flush=True)
    return summary(results)


def summary(results: dict[str, Result]) -> int:
    print()
    for group, result in results.items():
        print(f"{group}: {result}")
    failed = sum(result.failed for result in results.values())
    skipped = sum(sum(result.skipped.values()) for result in results.values())
    print(counts(sum(result.passed for result in results.values()), failed, skipped), flush=True)
    unable = sum(result.unable for result in results.values())
    return 1 if failed > unable else 2 if unable else 0
