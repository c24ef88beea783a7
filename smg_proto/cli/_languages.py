"""The languages that `smg-proto generate` knows, and the plugins that each needs.

The templates are templates/<language>/buf.gen.yaml; what lies beside one is copied into the output
and makes it a package of the language's own kind.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from smg_proto.cli import CommandError
from smg_proto.cli._swap import is_ours

Version = tuple[int, ...]


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


@dataclass(frozen=True)
class Tool:
    """A program of a generation: what is needed, and where it comes from."""

    program: str
    install: str
    minimum: Version = ()  # () where the program tells no version
    below: Version = (sys.maxsize,)

    def problem(self) -> str | None:
        """Why this tool cannot be used; None when it can."""
        path = self.find()
        if path is None:
            return f"{self.program} is missing: {self.install}"
        if not self.minimum:
            return None
        try:
            done = subprocess.run(
                [path, "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=30,
            )
            said = f"{done.stdout} {done.stderr}"
        except (OSError, subprocess.SubprocessError) as error:
            return f"{path} does not run ({error}): {self.install}"
        match = re.search(r"\d+(?:\.\d+)+", said)
        found = tuple(map(int, match[0].split("."))) if match else ()
        if self.minimum <= found < self.below:
            return None
        shown = match[0] if match else "of no known version"
        needed = f"{_dotted(self.minimum)} or newer"
        if self.below != Tool.below:
            needed += f", but older than {_dotted(self.below)}"
        return f"{path} is {shown}, needed is {needed}: {self.install}"

    def find(self) -> str | None:
        return shutil.which(self.program, path=search_path())


def search_path() -> str:
    """PATH, and where pip, npm, go and cargo put programs though it is not on PATH."""
    here, home = Path.cwd(), Path(os.environ.get("HOME", ""))
    project = next((p for p in (here, *here.parents) if (p / "package.json").is_file()), here)
    go = os.environ.get("GOPATH", "").split(os.pathsep)[0]
    cargo = os.environ.get("CARGO_INSTALL_ROOT") or os.environ.get("CARGO_HOME")
    folders = [
        Path(sys.executable).parent,
        project / "node_modules" / ".bin",
        Path(os.environ.get("GOBIN") or Path(go or home / "go", "bin")),
        Path(cargo or home / ".cargo", "bin"),
    ]
    # Nobody else may plant a program in a folder that nobody put on PATH.
    found = [str(folder) for folder in folders if folder.is_absolute() and is_ours(folder)]
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *found])


_HERE = Path(__file__).resolve().parents[1]
_SHIPPED = _HERE / "templates"
# In a checkout the templates stand beside the package.
TEMPLATES = _SHIPPED if _SHIPPED.is_dir() else _HERE.parent / "templates"
GOOGLE_RPC = TEMPLATES / "google_rpc"

BUF = Tool("buf", "pip install 'smg-grpc-proto[generate]'", (1, 66))
_PROTOC = "the compiler of https://github.com/protocolbuffers/protobuf/releases"


@dataclass(frozen=True)
class Language:
    name: str
    title: str
    tools: tuple[Tool, ...]
    wants_google_rpc: bool = False  # its gRPC library has no types for the details of a status
    impossible_fields: tuple[str, ...] = ()  # names that its generator makes broken code of
    # What the package is called, the option that calls it otherwise, and where the name stands.
    package: str = ""
    option: str = ""
    named: str = "{}"
    name_pattern: str = ""

    @property
    def folder(self) -> Path:
        """The template, and the files that make a package of what it generates."""
        return TEMPLATES / self.name

    def require_tools(self) -> None:
        """Raise CommandError that says all there is to install."""
        if problems := [p for tool in (BUF, *self.tools) if (p := tool.problem())]:
            raise CommandError(f"{self.title} cannot be generated:\n  " + "\n  ".join(problems))


LANGUAGES = {
    language.name: language
    for language in (
        Language(
            "typescript",
            "TypeScript",
            # Its code runs on any @bufbuild/protobuf 2 that is not older than itself.
            (Tool("protoc-gen-es", "npm install -g @bufbuild/protoc-gen-es@2.17.0", (2, 17, 0)),),
            wants_google_rpc=True,
            package="smg-grpc-proto",
            option="npm-name",
            named='"name": "{}"',
            name_pattern=r"(@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*",
        ),
        Language(
            "go",
            "Go",
            (
                # Older ones write the descriptors as byte lists: twice the source, slower builds.
                Tool(
                    "protoc-gen-go",
                    "go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
                    (1, 36, 6),
                ),
                # From 1.5 on streams are generic types, as the client examples use them.
                Tool(
                    "protoc-gen-go-grpc",
                    "go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
                    (1, 5, 1),
                ),
            ),
            package="github.com/smg-grpc-proto/go",
            option="go-module",
            name_pattern=r"[a-z0-9][a-z0-9.-]*(/[\w.~-]+)*",
        ),
        Language(
            "rust",
            "Rust",
            # Both follow prost 0.14 and tonic 0.14, the versions in the Cargo.toml of the output.
            (
                Tool(
                    "protoc-gen-prost", "cargo install --locked protoc-gen-prost@0.5.0", (0, 5, 0)
                ),
                Tool(
                    "protoc-gen-tonic", "cargo install --locked protoc-gen-tonic@0.5.0", (0, 5, 0)
                ),
            ),
            package="smg-grpc-proto",
            option="crate",
            named='name = "{}"',
            name_pattern=r"[A-Za-z][\w-]*",
        ),
        Language(
            "java",
            "Java",
            (
                # grpc-java still stands on protobuf-java 3.25, whose compiler is 25.
                Tool("protoc", f"{_PROTOC}, 25.9", (25, 0), (26,)),
                Tool(
                    "protoc-gen-grpc-java",
                    "https://repo1.maven.org/maven2/io/grpc/protoc-gen-grpc-java/1.83.0/, "
                    "the .exe of your system, executable and under this name on PATH",
                ),
            ),
            # Every message class has a static getDescriptor() of its own.
            impossible_fields=("descriptor",),
            package="io.smgproto",
            option="maven-group",
            named="<groupId>{}</groupId>",
            name_pattern=r"[A-Za-z_][\w.-]*",
        ),
        Language(
            "cpp",
            "C++",
            (
                # The compiler must be of the very release of the libprotobuf that is linked.
                Tool("protoc", f"apt-get install protobuf-compiler, or {_PROTOC}", (3, 15)),
                Tool("grpc_cpp_plugin", "apt-get install protobuf-compiler-grpc"),
            ),
            wants_google_rpc=True,
            # As in Java: a static descriptor().
            impossible_fields=("descriptor",),
        ),
    )
}
