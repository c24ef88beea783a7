from collections.abc import Iterator

import pytest

from smg_proto.testing import run_gateway, run_vllm_engine


@pytest.fixture(scope="package")
def servers() -> Iterator[dict[str, str]]:
    """The addresses of the embedded servers."""
    with run_gateway() as gateway, run_vllm_engine() as engine:
        yield {"gateway": gateway, "engine": engine}
