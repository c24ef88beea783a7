"""Typed gRPC stubs for LLM serving: the gateway's API, the engines behind it, and helpers.

`from smg_proto import smg_pb2, smg_pb2_grpc` loads what it names and nothing else;
`import smg_proto` alone loads neither grpc nor protobuf.
"""

TYPE_CHECKING = False  # as type checkers take it; importing typing would cost more than all else
if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    # Written by scripts/build.py:
    from smg_proto import build as build
    from smg_proto import cli as cli
    from smg_proto import common_pb2 as common_pb2
    from smg_proto import common_pb2_grpc as common_pb2_grpc
    from smg_proto import compat as compat
    from smg_proto import engine as engine
    from smg_proto import errors as errors
    from smg_proto import frontdoor as frontdoor
    from smg_proto import llm as llm
    from smg_proto import llm_pb2 as llm_pb2
    from smg_proto import llm_pb2_grpc as llm_pb2_grpc
    from smg_proto import mlx_engine_pb2 as mlx_engine_pb2
    from smg_proto import mlx_engine_pb2_grpc as mlx_engine_pb2_grpc
    from smg_proto import openengine as openengine
    from smg_proto import openengine_pb2 as openengine_pb2
    from smg_proto import openengine_pb2_grpc as openengine_pb2_grpc
    from smg_proto import sagellm as sagellm
    from smg_proto import sagellm_pb2 as sagellm_pb2
    from smg_proto import sagellm_pb2_grpc as sagellm_pb2_grpc
    from smg_proto import sglang_encoder_pb2 as sglang_encoder_pb2
    from smg_proto import sglang_encoder_pb2_grpc as sglang_encoder_pb2_grpc
    from smg_proto import sglang_runtime_pb2 as sglang_runtime_pb2
    from smg_proto import sglang_runtime_pb2_grpc as sglang_runtime_pb2_grpc
    from smg_proto import sglang_scheduler_pb2 as sglang_scheduler_pb2
    from smg_proto import sglang_scheduler_pb2_grpc as sglang_scheduler_pb2_grpc
    from smg_proto import smg_pb2 as smg_pb2
    from smg_proto import smg_pb2_grpc as smg_pb2_grpc
    from smg_proto import streams as streams
    from smg_proto import testing as testing
    from smg_proto import tokenspeed_encoder_pb2 as tokenspeed_encoder_pb2
    from smg_proto import tokenspeed_encoder_pb2_grpc as tokenspeed_encoder_pb2_grpc
    from smg_proto import tokenspeed_scheduler_pb2 as tokenspeed_scheduler_pb2
    from smg_proto import tokenspeed_scheduler_pb2_grpc as tokenspeed_scheduler_pb2_grpc
    from smg_proto import trtllm_service_pb2 as trtllm_service_pb2
    from smg_proto import trtllm_service_pb2_grpc as trtllm_service_pb2_grpc
    from smg_proto import v1 as v1
    from smg_proto import vllm as vllm
    from smg_proto import vllm_control_pb2 as vllm_control_pb2
    from smg_proto import vllm_control_pb2_grpc as vllm_control_pb2_grpc
    from smg_proto import vllm_engine_pb2 as vllm_engine_pb2
    from smg_proto import vllm_engine_pb2_grpc as vllm_engine_pb2_grpc
    from smg_proto import vllm_inference_pb2 as vllm_inference_pb2
    from smg_proto import vllm_inference_pb2_grpc as vllm_inference_pb2_grpc
    from smg_proto._connect import connect as connect
    from smg_proto._connect import connect_aio as connect_aio
    from smg_proto._connect import wait_ready as wait_ready
    from smg_proto._connect import wait_ready_aio as wait_ready_aio
    from smg_proto._connect import wait_response as wait_response
    from smg_proto._connect import wait_response_aio as wait_response_aio

__version__ = "1.1.0.dev0"


# Functions of _connect.py, which needs grpc.
_CONNECT = {
    "connect",
    "connect_aio",
    "wait_ready",
    "wait_ready_aio",
    "wait_response",
    "wait_response_aio",
}

if not TYPE_CHECKING:  # a type checker knows the modules above and refuses any other name

    def __getattr__(name):
        """Load a module of the package, or what is in one, when it is first asked for."""
        if name.startswith("_"):
            raise AttributeError(f"module 'smg_proto' has no attribute {name!r}")
        from importlib import import_module
        from importlib.util import find_spec

        if name in _CONNECT:
            return getattr(import_module("smg_proto._connect"), name)
        module = f"smg_proto.{name}"
        try:
            spec = find_spec(module)
            if spec and spec.origin:  # a folder without __init__.py has none
                return import_module(module)
        except ImportError as error:  # it needs an extra, and says which
            raise AttributeError(f"{module} cannot be loaded: {error}") from error
        from difflib import get_close_matches

        close = get_close_matches(name, [*_modules(), *_CONNECT])
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise AttributeError(f"module 'smg_proto' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_modules(), *_CONNECT})


def _modules() -> list[str]:
    """The public modules and packages in this folder."""
    from pkgutil import iter_modules

    return [name for _, name, _ in iter_modules(__path__) if not name.startswith("_")]


def proto_path() -> "Path":
    """The folder with the `.proto` files of this release: an include path for protoc."""
    from pathlib import Path

    here = Path(__file__).resolve().parent
    shipped = here / "proto"
    return shipped if shipped.is_dir() else here.parent / "proto"  # the latter in a checkout


def descriptor_set() -> "FileDescriptorSet":
    """All contracts of this release, with their imports and comments, as a FileDescriptorSet."""
    from pathlib import Path

    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    return FileDescriptorSet.FromString(Path(__file__).with_name("descriptors.binpb").read_bytes())
