"""The languages that `smg-proto generate` supports, and the tools that each needs.

The templates are templates/<language>/buf.gen.yaml. The files beside a template are copied into the
output and turn it into a package of that language.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from smg_proto.cli import CommandError
from smg_proto.cli._swap import is_own_folder

Version = tuple[int, ...]


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


@dataclass(frozen=True)
class Tool:
    """A program that generation needs, with its versions and how to install it."""

    program: str
    install: str
    minimum: Version = ()  # () if the program does not report its version
    below: Version = (sys.maxsize,)

    def problem(self) -> str | None:
        """Why the tool cannot be used; None if it can."""
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
            output = f"{done.stdout} {done.stderr}"
        except (OSError, subprocess.SubprocessError) as error:
            return f"{path} does not run ({error}): {self.install}"
        match = re.search(r"\d+(?:\.\d+)+", output)
        version = tuple(map(int, match[0].split("."))) if match else ()
        if self.minimum <= version < self.below:
            return None
        shown = match[0] if match else "of unknown version"
        needed = f"{_dotted(self.minimum)} or newer"
        if self.below != Tool.below:
            needed += f" and older than {_dotted(self.below)}"
        return f"{path} is {shown}, but must be {needed}: {self.install}"

    def find(self) -> str | None:
        return shutil.which(self.program, path=search_path())


def search_path() -> str:
    """PATH, and the folders where pip, npm, go and cargo install programs outside PATH."""
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
    # Only the user's own folders: nobody else may plant a program outside PATH.
    own = [str(folder) for folder in folders if folder.is_absolute() and is_own_folder(folder)]
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *own])


_HERE = Path(__file__).resolve().parents[1]
_SHIPPED = _HERE / "templates"
# In a checkout, the templates are beside the package.
TEMPLATES = _SHIPPED if _SHIPPED.is_dir() else _HERE.parent / "templates"
GOOGLE_RPC = TEMPLATES / "google_rpc"

BUF = Tool("buf", "pip install 'smg-grpc-proto[generate]'", (1, 66))
_PROTOC = "the compiler of https://github.com/protocolbuffers/protobuf/releases"


@dataclass(frozen=True)
class Language:
    name: str
    title: str
    tools: tuple[Tool, ...]
    needs_google_rpc: bool = False  # its gRPC library has no types for error details
    reserved_fields: tuple[str, ...] = ()  # field names that its generator breaks on
    # The default name of the package, the option that changes it, and where the name appears.
    package: str = ""
    option: str = ""
    named: str = "{}"
    name_pattern: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the template and of the files that turn its output into a package."""
        return TEMPLATES / self.name

    def require_tools(self) -> None:
        """Raise CommandError with all tools that are missing or of the wrong version."""
        if problems := [p for tool in (BUF, *self.tools) if (p := tool.problem())]:
            raise CommandError(f"could not generate {self.title}:\n  " + "\n  ".join(problems))


LANGUAGES = {
    language.name: language
    for language in (
        Language(
            "typescript",
            "TypeScript",
            # Generated code runs on any @bufbuild/protobuf 2 that is not older than the plugin.
            (Tool("protoc-gen-es", "npm install -g @bufbuild/protoc-gen-es@2.17.0", (2, 17, 0)),),
            needs_google_rpc=True,
            package="smg-grpc-proto",
            option="npm-name",
            named='"name": "{}"',
            name_pattern=r"(@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*",
        ),
        Language(
            "go",
            "Go",
            (
                # Older ones write descriptors as byte lists: twice the source, slower builds.
                Tool(
                    "protoc-gen-go",
                    "go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
                    (1, 36, 6),
                ),
                # From 1.5 on, streams are generic types, which the client examples use.
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
                # grpc-java still uses protobuf-java 3.25, whose compiler is 25.
                Tool("protoc", f"{_PROTOC}, 25.9", (25, 0), (26,)),
                Tool(
                    "protoc-gen-grpc-java",
                    "https://repo1.maven.org/maven2/io/grpc/protoc-gen-grpc-java/1.83.0/, "
                    "the .exe of your system, executable and under this name on PATH",
                ),
            ),
            # Every message class already has a static getDescriptor().
            reserved_fields=("descriptor",),
            package="io.smgproto",
            option="maven-group",
            named="<groupId>{}</groupId>",
            name_pattern=r"[A-Za-z_][\w.-]*",
        ),
        Language(
            "cpp",
            "C++",
            (
                # The compiler must be of the same release as the linked libprotobuf.
                Tool("protoc", f"apt-get install protobuf-compiler, or {_PROTOC}", (3, 15)),
                Tool("grpc_cpp_plugin", "apt-get install protobuf-compiler-grpc"),
            ),
            needs_google_rpc=True,
            # As in Java: every message class already has a static descriptor().
            reserved_fields=("descriptor",),
        ),
    )
}
