"""The old import path of smg_proto: the same modules under their old names.

Software that was built on `smg_grpc_proto` works unmodified; write `smg_proto` in new code.
"""

from smg_proto import __version__ as __version__

__all__ = [
    "common_pb2",
    "common_pb2_grpc",
    "mlx_engine_pb2",
    "mlx_engine_pb2_grpc",
    "sglang_encoder_pb2",
    "sglang_encoder_pb2_grpc",
    "sglang_scheduler_pb2",
    "sglang_scheduler_pb2_grpc",
    "tokenspeed_encoder_pb2",
    "tokenspeed_encoder_pb2_grpc",
    "tokenspeed_scheduler_pb2",
    "tokenspeed_scheduler_pb2_grpc",
    "trtllm_service_pb2",
    "trtllm_service_pb2_grpc",
    "vllm_engine_pb2",
    "vllm_engine_pb2_grpc",
]

TYPE_CHECKING = False  # as type checkers take it; importing typing would cost more than all else
if TYPE_CHECKING:
    from smg_proto import common_pb2 as common_pb2
    from smg_proto import common_pb2_grpc as common_pb2_grpc
    from smg_proto import mlx_engine_pb2 as mlx_engine_pb2
    from smg_proto import mlx_engine_pb2_grpc as mlx_engine_pb2_grpc
    from smg_proto import sglang_encoder_pb2 as sglang_encoder_pb2
    from smg_proto import sglang_encoder_pb2_grpc as sglang_encoder_pb2_grpc
    from smg_proto import sglang_scheduler_pb2 as sglang_scheduler_pb2
    from smg_proto import sglang_scheduler_pb2_grpc as sglang_scheduler_pb2_grpc
    from smg_proto import tokenspeed_encoder_pb2 as tokenspeed_encoder_pb2
    from smg_proto import tokenspeed_encoder_pb2_grpc as tokenspeed_encoder_pb2_grpc
    from smg_proto import tokenspeed_scheduler_pb2 as tokenspeed_scheduler_pb2
    from smg_proto import tokenspeed_scheduler_pb2_grpc as tokenspeed_scheduler_pb2_grpc
    from smg_proto import trtllm_service_pb2 as trtllm_service_pb2
    from smg_proto import trtllm_service_pb2_grpc as trtllm_service_pb2_grpc
    from smg_proto import vllm_engine_pb2 as vllm_engine_pb2
    from smg_proto import vllm_engine_pb2_grpc as vllm_engine_pb2_grpc
else:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
