"""scripts/_forks.py: which changes of a loaded module can be made in place."""

import gc
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import _forks
import pytest

SOURCE = """\
import contextlib
LIMIT = 3
class Box:
    size = 1
    def __init__(self, x=2):
        self.x = x
    @property
    def low(self):
        return self.x < LIMIT
def outer(a):
    def inner(b):
        return a + b
    return inner
@contextlib.contextmanager
def held():
    yield 1
pair = (lambda: 1, lambda: 2)
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    path = tmp_path / "changing.py"
    path.write_text(SOURCE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("changing", path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["changing"] = loaded
    spec.loader.exec_module(loaded)
    yield loaded
    del sys.modules["changing"]


def change(module: ModuleType, old: str, new: str) -> bool:
    assert module.__file__ and SOURCE.count(old) == 1
    return _forks.replace_functions(module.__file__, SOURCE, SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "look", "expected"),
    [
        ("self.x < LIMIT", "self.x <= LIMIT", lambda m, box: box.low, True),
        ("a + b", "a - b", lambda m, box: m.outer(3)(1), 2),
        ("yield 1", "yield 5", lambda m, box: m.held().__enter__(), 5),
        ("self.x = x", "self.x = -x", lambda m, box: m.Box(3).x, -3),
    ],
)
def test_functions_change_in_place(
    old: str, new: str, look: object, expected: object, module: ModuleType
) -> None:
    box = module.Box(3)
    assert callable(look) and look(module, box) != expected
    assert change(module, old, new)
    assert look(module, box) == expected


def test_functions_that_are_frozen_are_found(module: ModuleType) -> None:
    gc.freeze()
    assert change(module, "self.x < LIMIT", "self.x <= LIMIT")
    assert module.Box(3).low


def test_a_function_that_is_gone_is_not_changed(module: ModuleType) -> None:
    del module.held
    gc.collect()
    assert not change(module, "yield 1", "yield 5")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("size = 1", "size = 2"),
        ("x=2", "x=3"),
        ("@property", "@contextlib.contextmanager"),
        ("lambda: 1", "lambda: 3"),  # two functions of one name at one place
        ("return a + b", "return b"),  # another closure
        ("return inner", "\n    return inner"),  # other lines below it
    ],
)
def test_what_runs_on_import_is_left_to_a_new_process(
    old: str, new: str, module: ModuleType
) -> None:
    assert not change(module, old, new)
    assert module.outer(3)(1) == 4


def test_a_module_that_is_not_loaded_will_be_read_from_its_file(tmp_path: Path) -> None:
    assert _forks.replace_functions(str(tmp_path / "later.py"), SOURCE, SOURCE)
