"""How each language gets its plugins, and how its client and its executor are built.

Everything is in .cache/languages/<language>/, and is reused by the next run:

    client/         clients/<language>, with what `smg-proto generate` writes in client/gen
    executor/       tests/languages/<language>
    plugins/        the plugins of the generation, with the versions that generate recommends
"""

import os
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from support import ROOT, need, run

Command = list[str | Path]


@dataclass(frozen=True)
class Programs:
    executor: Command
    client: Command  # takes the addresses of a gateway and of an engine
    server: Command | None = None  # serves entity.grpc.LLMService, prints its address


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
        return run(*command, cwd=cwd, **self.environment, **env)

    def prepare(self) -> Programs:
        """Generate from proto/, and build the programs; skips where the machine lacks a tool."""
        self.install()
        for source, target in (
            (ROOT / "clients" / self.name, self.client),
            (ROOT / "tests" / "languages" / self.name, self.executor),
        ):
            shutil.copytree(source, target, dirs_exist_ok=True)
        generate = ["generate", "--lang", self.name, "--out", self.client / "gen"]
        self.run("smg-proto", *generate, cwd=self.home)
        return self.build()

    @abstractmethod
    def install(self) -> None:
        """Find the programs of the language, and get the plugins."""

    @abstractmethod
    def build(self) -> Programs: ...


class Go(Toolchain):
    def install(self) -> None:
        need("go")
        for plugin in (
            "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
            "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
        ):
            self.home.mkdir(parents=True, exist_ok=True)
            self.run("go", "install", plugin, cwd=self.home, GOBIN=str(self.plugins / "bin"))

    def build(self) -> Programs:
        for folder in (self.client / "gen", self.client, self.executor):
            self.run("go", "vet", "./...", cwd=folder)
        self.run("go", "build", "-o", "bin/", "./...", cwd=self.client)
        self.run("go", "build", "-o", "bin/", "./...", cwd=self.executor)
        return Programs(
            [self.executor / "bin" / "executor"],
            [self.client / "bin" / "example"],
            [self.client / "bin" / "llmserver"],
        )


class TypeScript(Toolchain):
    npm = ("--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")

    def install(self) -> None:
        need("node")
        need("npm")
        self.plugins.mkdir(parents=True, exist_ok=True)
        plugin = "@bufbuild/protoc-gen-es@2.17.0"
        self.run("npm", "install", "--global", "--prefix=.", *self.npm, plugin, cwd=self.plugins)

    def build(self) -> Programs:
        packed = self.executor / "smg-grpc-proto.tgz"
        name = self.run("npm", "pack", "--silent", self.client / "gen", cwd=self.executor)
        (self.executor / name.strip()).rename(packed)
        for folder in (self.client, self.executor):
            # npm takes a package of the same version for the same package.
            shutil.rmtree(folder / "node_modules" / "smg-grpc-proto", ignore_errors=True)
            self.run("npm", "install", *self.npm, cwd=folder)
            self.run("npm", "run", "--silent", "build", cwd=folder)
        return Programs(
            ["node", self.executor / "dist" / "main.js"], ["node", self.client / "dist" / "main.js"]
        )


TOOLCHAINS: dict[str, type[Toolchain]] = {"go": Go, "typescript": TypeScript}
