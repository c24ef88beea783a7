"""Lets a CUDA build of torch be imported without CUDA: python cuda_stubs.py SITE_PACKAGES

The package index has torch for x86-64 Linux as a CUDA build only, and that one loads 2.7 GB of
libraries which a CPU never calls. Each gets a stub that has the symbols and does nothing.
Needs cc, nm and readelf.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

CUDA = re.compile(r"lib(cu|nccl|nv)")
SYMBOL = re.compile(r"_*p?(cu|nccl|nv)")
FAILED = 100  # cudaErrorNoDevice; the other libraries take anything but 0 for an error too


def main(site: Path) -> None:
    libraries = [*(site / "torch" / "lib").glob("*.so*"), *(site / "torch").glob("*.so")]
    here = {path.name for path in libraries}
    needed = {name for path in libraries for name in _needed(path)} - here
    undefined, defined = set[str](), set[str]()
    for path in libraries:
        for line in _output("nm", "-D", str(path)).splitlines():
            kind, symbol = line.split()[-2:]
            if kind == "U":
                undefined.add(symbol)
            else:
                defined.add(symbol.partition("@")[0])
    versioned: dict[str, set[str]] = defaultdict(set)  # by version: CUDA's is mostly the library
    for symbol in undefined:
        name, _, version = symbol.partition("@")
        if name not in defined and SYMBOL.match(name):
            versioned[version.lstrip("@")].add(name)
    out = site / "nvidia" / "cu13" / "lib"  # where torch looks
    out.mkdir(parents=True, exist_ok=True)
    for library in sorted(filter(CUDA.match, needed)):
        # A symbol without a version may come from anywhere, so every stub has all of those.
        own = {v: names for v, names in versioned.items() if v == library or v in _others(library)}
        _build(out / library, versioned[""], own)


def _others(library: str) -> set[str]:
    return {"NVSHMEM"} if library.startswith("libnvshmem") else set()


def _build(path: Path, plain: set[str], versioned: dict[str, set[str]]) -> None:
    names = sorted(plain.union(*versioned.values()))
    with tempfile.TemporaryDirectory() as folder:
        code, script = Path(folder, "stub.c"), Path(folder, "versions")
        code.write_text(
            "".join(f"int {name}(void) {{ return {FAILED}; }}\n" for name in names),
            encoding="utf-8",
        )
        script.write_text(
            "".join(f"{v} {{ global: {'; '.join(sorted(n))}; }};\n" for v, n in versioned.items()),
            encoding="utf-8",
        )
        command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}"]
        command += [f"-Wl,--version-script={script}"] if versioned else []
        subprocess.run([*command, "-o", path, code], check=True)


def _needed(path: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+?)\]", _output("readelf", "-d", str(path)))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
