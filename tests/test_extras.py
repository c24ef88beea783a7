"""Every extra installs, and does what it is for, at the floors that it declares and at the newest.

The base has a matrix of its own, and the type checkers look at `types` at both ends.
"""

from pathlib import Path

import pytest
from support import ROOT, find_python, make_environment, run, wheel_metadata

pytestmark = pytest.mark.packaging

# An extra, and what comes with it for its use.
EXTRAS = {
    "types": ["types"],
    "client": ["client"],
    "decode": ["client", "decode"],
    "chat": ["client", "decode", "chat"],
    "telemetry": ["client", "telemetry"],
    "serve": ["serve"],
    "generate": ["generate"],
}


def install(extras: list[str], wheel: Path, home: Path, *, python: str, resolution: str) -> Path:
    """An environment with the wheel and what these extras ask for, at one end of their ranges."""
    interpreter = make_environment(home, [], python=python)
    flags = [word for extra in extras for word in ("--extra", extra)]
    # From pyproject.toml, since the floors of an installed wheel's requirements are not "direct".
    direct = ["-r", str(ROOT / "pyproject.toml"), *flags, "--resolution", resolution]
    run("uv", "pip", "install", "-q", "--python", interpreter, *direct)
    run("uv", "pip", "install", "-q", "--python", interpreter, "--no-deps", wheel)
    run("uv", "pip", "check", "-q", "--python", interpreter)
    return interpreter


def test_the_extras_are_complete(wheel: Path) -> None:
    assert {*wheel_metadata(wheel).get_all("Provides-Extra", [])} == EXTRAS.keys()


def test_the_fakes_and_the_demo_need_none(wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env", [wheel])
    run(python, "-m", "peers.extra", "demo", cwd=ROOT / "tests")


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_works_at_its_floors(extra: str, wheel: Path, tmp_path: Path) -> None:
    oldest = find_python("3.10")
    python = install(
        EXTRAS[extra], wheel, tmp_path / "env", python=oldest, resolution="lowest-direct"
    )
    installed = run("uv", "pip", "freeze", "--python", python)
    for line in wheel_metadata(wheel).get_all("Requires-Dist", []):
        requirement, _, marker = line.partition(";")
        if not marker or marker.strip() == f"extra == '{extra}'":
            name, _, floor = requirement.partition(">=")
            assert f"{name.partition('<')[0]}=={floor}" in installed
    run(python, "-m", "peers.extra", extra, cwd=ROOT / "tests")


def test_all_extras_work_together_at_their_newest(wheel: Path, tmp_path: Path) -> None:
    newest = find_python("3.13")
    python = install([*EXTRAS], wheel, tmp_path / "env", python=newest, resolution="highest")
    for extra in EXTRAS:
        run(python, "-m", "peers.extra", extra, cwd=ROOT / "tests")


def test_the_constraints_are_those_of_the_requirements(tmp_path: Path) -> None:
    """Whoever changes a requirement writes them again; what is pinned stays where it fits."""
    constraints = ROOT / "scripts" / "constraints.txt"
    lines = constraints.read_text(encoding="utf-8").splitlines()
    command = lines[1].strip("# ").split()
    assert command[:3] == ["uv", "pip", "compile"]
    (tmp_path / "scripts").mkdir()
    for path in (ROOT / "pyproject.toml", constraints):
        (tmp_path / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    run(*command, "--no-header", "-q", cwd=tmp_path)
    again = (tmp_path / "scripts" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert again == lines[2:]
