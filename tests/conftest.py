from pathlib import Path

import pytest
from support import build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout, built."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))
