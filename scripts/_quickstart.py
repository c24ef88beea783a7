"""Runs the first example of README from a fresh checkout: a completion, token by token.

Creates .venv with the package, runs `smg-proto demo` on a free port, runs examples/quickstart.py
against it, and stops the demo. Exit status: 0 success.
"""

import subprocess
import sys
import threading

import _venv

_TIMEOUT = 60  # seconds for each of: start of the demo, the client, end of the demo


def main() -> int:
    python = _venv.ensure("base")
    demo = [str(python), "-m", "smg_proto", "demo", "--listen", "127.0.0.1:0"]
    print("+", *demo, flush=True)
    with subprocess.Popen(
        demo, stdout=subprocess.PIPE, text=True, env=_venv.environment()
    ) as server:
        timer = threading.Timer(2 * _TIMEOUT, server.kill)
        timer.start()
        try:
            target = _address(server)
            client = [str(python), str(_venv.ROOT / "examples" / "quickstart.py"), target]
            print("+", *client, flush=True)
            done = subprocess.run(client, env=_venv.environment(), timeout=_TIMEOUT)
            server.terminate()
            server.communicate(timeout=_TIMEOUT)
        finally:
            timer.cancel()
            server.kill()
    if done.returncode or server.returncode:
        print(f"quickstart: client {done.returncode}, demo {server.returncode}", file=sys.stderr)
        return 1
    print("quickstart: done; `smg-proto demo` runs the server for you to try", flush=True)
    return 0


def _address(server: "subprocess.Popen[str]") -> str:
    """The demo's address, from its output."""
    assert server.stdout is not None
    for line in server.stdout:
        _, separator, rest = line.partition("listening on ")
        if separator:
            return rest.partition(",")[0]
    sys.exit("quickstart: the demo did not start")
