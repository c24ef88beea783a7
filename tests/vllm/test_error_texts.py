"""What an error says for each status, and of which class it is."""

import grpc
import pytest

from smg_proto.vllm import VLLMGrpcError, VLLMGrpcUnknownError, VLLMGrpcValidationError
from smg_proto.vllm._errors import BY_CODE, from_rpc_error, from_status

# Status: class without "VLLMGrpc" and "Error"; what it says; whether the call may be repeated.
STATUSES = {
    "CANCELLED": ("Cancelled", "the call was cancelled", False),
    "UNKNOWN": ("Unknown", "the call ended UNKNOWN", False),
    "INVALID_ARGUMENT": ("InvalidArgument", "the server rejected the request; ", False),
    "DEADLINE_EXCEEDED": ("Timeout", "no complete reply before the deadline; ", False),
    "NOT_FOUND": ("NotFound", "the request names something that the server does not have", False),
    "ALREADY_EXISTS": ("AlreadyExists", "the call ended ALREADY_EXISTS", False),
    "PERMISSION_DENIED": ("PermissionDenied", "the caller is not allowed to make ", False),
    "RESOURCE_EXHAUSTED": ("ResourceExhausted", "the server is at its limit; try again", True),
    "FAILED_PRECONDITION": ("FailedPrecondition", "the server is not configured for ", False),
    "ABORTED": ("Aborted", "the call ended ABORTED", False),
    "OUT_OF_RANGE": ("OutOfRange", "the call ended OUT_OF_RANGE", False),
    "UNIMPLEMENTED": ("Unimplemented", "the server does not support this call: it is too ", False),
    "INTERNAL": ("Internal", "the engine or its server failed", False),
    "UNAVAILABLE": ("Unavailable", "the server cannot accept the request; try again", True),
    "DATA_LOSS": ("DataLoss", "the call ended DATA_LOSS", False),
    "UNAUTHENTICATED": ("Unauthenticated", "the server did not accept the credentials; ", False),
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_each_status_has_a_class_and_says_what_to_do(code: grpc.StatusCode) -> None:
    kind, text, retryable = STATUSES[code.name]
    error = from_status(code, "why", target="t:1", connected=True, request_id="r")
    assert type(error) is BY_CODE[code.name]
    assert type(error).__name__ == f"VLLMGrpc{kind}Error"
    assert str(error).startswith(text)
    assert str(error).endswith(f" | code={code.name} | details=why | request_id=r")
    assert error.args == (error.message,)
    assert error.retryable is retryable
    begun = from_status(code, "why", target="t:1", connected=True, begun=True)
    assert begun.retryable is False


def test_an_error_without_a_status_is_unknown() -> None:
    error = from_rpc_error(grpc.RpcError(), target="t:1", request_id="r")
    assert type(error) is VLLMGrpcUnknownError
    assert str(error) == "gRPC failed without a status | request_id=r"


def test_an_error_that_was_not_sent_has_the_code_of_one_that_was() -> None:
    error = VLLMGrpcValidationError("n", "is wrong")
    assert (error.code, error.param, error.retryable) == ("INVALID_ARGUMENT", "n", False)
    assert VLLMGrpcError("so").retryable is False
