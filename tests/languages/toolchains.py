"""How each language gets its plugins, and how its client and its executor are built.

Everything is in .cache/languages/<language>/, and is reused by the next run:

    client/         clients/<language>, with what `smg-proto generate` writes in client/gen
                    and, in Go and TypeScript, the programs of docs/guide-<language>.md
    executor/       tests/languages/<language>
    plugins/        the plugins of the generation, with the versions that generate recommends
"""

import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from docs.pages import blocks
from support import ROOT, missing, need, run

from smg_proto.cli._languages import LANGUAGES

Command = list[str | Path]


def guide(language: str) -> dict[str, str]:
    """The programs of the guide in a language by their section; "" has what the others share."""
    pages = (f"guide-{language}.md", "clients.md")
    return {
        block.id.partition("#")[2]: block.text
        for block in blocks()
        if block.page.name in pages and block.language == language
    }


def with_target(program: str, expression: str) -> str:
    """A program that goes to another address than the one on the page."""
    address = r'"(https?://)?(localhost:50051|front-door\.example:443)"'
    changed, count = re.subn(address, lambda _: expression, program)
    assert count == 1, program
    return changed


@dataclass(frozen=True)
class Programs:
    executor: Command
    client: Command  # takes the addresses of a gateway and of an engine
    server: Command | None = None  # serves entity.grpc.LLMService, prints its address
    guide: dict[str, Command] = field(default_factory=dict[str, Command], kw_only=True)


class Toolchain(ABC):
    def __init__(self, name: str) -> None:
        self.home = ROOT / ".cache" / "languages" / name
        self.name = name
        self.client = self.home / "client"
        self.executor = self.home / "executor"
        self.plugins = self.home / "plugins"

    @cached_property
    def environment(self) -> dict[str, str]:
        path = [self.plugins / "bin", Path(sys.executable).parent, os.environ["PATH"]]
        return {"PATH": os.pathsep.join(map(str, path))}

    def run(self, *command: str | Path, cwd: Path, **env: str) -> str:
        variables: dict[str, str] = {**self.environment, **env}
        return run(*command, cwd=cwd, check=True, **variables)

    def prepare(self) -> Programs:
        """Generate from proto/, and build the programs; skips where the machine lacks a tool."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.install()
        for source, target in (
            (ROOT / "clients" / self.name, self.client),
            (ROOT / "tests" / "languages" / self.name, self.executor),
        ):
            made = shutil.ignore_patterns("gen", "node_modules", "dist", "target", "build")
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=made)
        for path, code in self.files_of_the_guide(guide(self.name)).items():
            (self.client / path).parent.mkdir(parents=True, exist_ok=True)
            (self.client / path).write_text(code, encoding="utf-8")
        generate: Command = ["generate", "--lang", self.name, "--out", self.client / "gen"]
        self.run("smg-proto", *generate, "--force", cwd=self.home)
        return self.build()

    def files_of_the_guide(self, programs: Mapping[str, str]) -> dict[str, str]:
        """Where the programs of the guide stand in the client's folder; they take the address."""
        return {}

    def install_plugins(self, **env: str) -> None:
        """Run what `smg-proto generate` says when a plugin is missing."""
        for tool in LANGUAGES[self.name].tools:
            self.run(*tool.install.split(), cwd=self.home, **env)

    @abstractmethod
    def install(self) -> None:
        """Find the programs of the language, and get the plugins."""

    @abstractmethod
    def build(self) -> Programs: ...


class Go(Toolchain):
    def files_of_the_guide(self, programs: Mapping[str, str]) -> dict[str, str]:
        files: dict[str, str] = {}
        for name in programs.keys() - {""}:
            shared = "connect()" in programs[name]
            connect = programs["" if shared else name]
            files[f"guide/{name}/target.go"] = TARGET
            files[f"guide/{name}/main.go"] = programs[name]
            files[f"guide/{name}/{'connect' if shared else 'main'}.go"] = with_target(
                connect, "target"
            )
        return files

    def install(self) -> None:
        need("go")
        self.install_plugins(GOBIN=str(self.plugins / "bin"))

    def build(self) -> Programs:
        for folder in (self.client / "gen", self.client, self.executor):
            self.run("go", "vet", "./...", cwd=folder)
        self.run("go", "build", "-o", "bin/", "./...", cwd=self.client)
        self.run("go", "build", "-o", "bin/", "./...", cwd=self.executor)
        return Programs(
            [self.executor / "bin" / "executor"],
            [self.client / "bin" / "example"],
            [self.client / "bin" / "llmserver"],
            guide={name: [self.client / "bin" / name] for name in guide("go") if name},
        )


TARGET = """package main

import "os"

var target = os.Args[1]
"""


class TypeScript(Toolchain):
    def files_of_the_guide(self, programs: Mapping[str, str]) -> dict[str, str]:
        address = "process.argv[2] as string"
        return {f"src/guide/{name}.ts": with_target(t, address) for name, t in programs.items()}

    npm = ("--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")

    def install(self) -> None:
        need("node")
        need("npm")
        self.install_plugins(npm_config_prefix=str(self.plugins))

    def build(self) -> Programs:
        packed = self.executor / "smg-grpc-proto.tgz"
        name = self.run("npm", "pack", "--silent", self.client / "gen", cwd=self.executor)
        (self.executor / name.strip()).rename(packed)
        for folder in (self.client, self.executor):
            # npm takes a package of the same version for the same package.
            shutil.rmtree(folder / "node_modules" / "smg-grpc-proto", ignore_errors=True)
            self.run("npm", "install", *self.npm, cwd=folder)
            self.run("npm", "run", "--silent", "build", cwd=folder)
        dist = self.client / "dist"
        return Programs(
            ["node", self.executor / "dist" / "main.js"],
            ["node", dist / "main.js"],
            guide={name: ["node", dist / "guide" / f"{name}.js"] for name in guide("typescript")},
        )


class Rust(Toolchain):
    @cached_property
    def environment(self) -> dict[str, str]:
        return super().environment | {
            "CARGO_TARGET_DIR": str(self.home / "target"),
            # Dependencies are exempt from lints, so one setting serves all and is built once.
            "RUSTFLAGS": "-Dwarnings",
            "CARGO_PROFILE_DEV_DEBUG": "0",
            "SMG_DESCRIPTORS": str(ROOT / "smg_proto" / "descriptors.binpb"),
        }

    def install(self) -> None:
        need("cargo")
        # Unoptimized: compiling the plugins takes longer than running them.
        where = {"CARGO_INSTALL_ROOT": str(self.plugins), "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0"}
        self.install_plugins(**where)

    def build(self) -> Programs:
        for folder in (self.client, self.executor):
            self.run("cargo", "build", "--quiet", cwd=folder)
        built = self.home / "target" / "debug"
        return Programs([built / "executor"], [built / "example"])


JAVA_PLUGINS = {
    "protoc": "com.google.protobuf:protoc:3.25.9",
    "protoc-gen-grpc-java": "io.grpc:protoc-gen-grpc-java:1.83.0",
}


class Java(Toolchain):
    def mvn(self, *words: str | Path, cwd: Path) -> None:
        repository = f"-Dmaven.repo.local={self.home / 'repository'}"
        self.run("mvn", "--batch-mode", "--quiet", repository, *words, cwd=cwd)

    def install(self) -> None:
        need("javac")
        need("mvn")
        programs = self.plugins / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        for name, artifact in JAVA_PLUGINS.items():
            if not (programs / name).exists():
                what = f"-Dartifact={artifact}:exe:{platform()}"
                self.mvn("dependency:copy", what, f"-DoutputDirectory={programs}", cwd=self.home)
                (found,) = programs.glob(f"{name}-[0-9]*.exe")
                found.chmod(0o755)
                found.rename(programs / name)

    def build(self) -> Programs:
        self.mvn("install", cwd=self.client / "gen")
        commands: list[Command] = []
        for folder, package in ((self.executor, "executor"), (self.client, "example")):
            where = "-Dmdep.outputFile=target/classpath"
            self.mvn("compile", "dependency:build-classpath", where, cwd=folder)
            libraries = (folder / "target" / "classpath").read_text(encoding="utf-8").strip()
            classes = f"{folder / 'target' / 'classes'}:{libraries}"
            commands.append(["java", "-cp", classes, f"{package}.Main"])
        return Programs(*commands)


class Cpp(Toolchain):
    packages = (
        *("cmake", "g++", "pkg-config"),
        *("libgrpc++-dev", "libprotobuf-dev", "protobuf-compiler-grpc"),
    )

    def install(self) -> None:
        if not self.installed():
            missing(f"no gRPC for C++: apt-get install {' '.join(self.packages)}")

    def installed(self) -> bool:
        programs = ("cmake", "g++", "pkg-config", "protoc", "grpc_cpp_plugin")
        library = ("pkg-config", "--exists", "grpc++", "protobuf")
        return all(map(shutil.which, programs)) and subprocess.run(library).returncode == 0

    def build(self) -> Programs:
        where: Command = ["-S", self.executor, "-B", self.home / "build"]
        quick = ["-DCMAKE_CXX_FLAGS=-O0", "-DCMAKE_UNITY_BUILD=ON"]
        self.run("cmake", *where, *quick, cwd=self.home)
        self.run("cmake", "--build", "build", "--parallel", "2", cwd=self.home)
        build = self.home / "build"
        return Programs([build / "executor"], [build / "client" / "example"])


def platform() -> str:
    """This machine, as Maven Central calls it."""
    system = {"linux": "linux", "darwin": "osx"}.get(sys.platform)
    if system is None:
        missing(f"no protoc for {sys.platform} on Maven Central")
    processor = {"arm64": "aarch_64", "aarch64": "aarch_64"}.get(os.uname().machine, "x86_64")
    return f"{system}-{processor}"


TOOLCHAINS: dict[str, type[Toolchain]] = {
    "go": Go,
    "typescript": TypeScript,
    "rust": Rust,
    "java": Java,
    "cpp": Cpp,
}
