"""The languages that `smg-proto generate` knows, and the plugins that each needs.

The templates are templates/<language>/buf.gen.yaml; what lies beside one is copied into the output
and makes it a package of the language's own kind.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from smg_proto.cli import CommandError

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
                text=True,
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
        """On PATH, or beside this Python, where pip puts programs."""
        beside = str(Path(sys.executable).parent)
        return shutil.which(self.program) or shutil.which(self.program, path=beside)


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
