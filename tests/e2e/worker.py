"""A FakeVllmEngine as a process of its own, to be killed: prints its port, ends with its input."""

import sys

from smg_proto.testing import FakeVllmEngine, run_vllm_engine

if __name__ == "__main__":
    engine = FakeVllmEngine(name=sys.argv[1], token_delay=float(sys.argv[2]))
    with run_vllm_engine(engine) as address:
        print(address, flush=True)
        sys.stdin.read()
