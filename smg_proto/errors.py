"""Placeholder until the embedded branch's errors.py is merged."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import grpc


class SmgError(Exception):
    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: int = 0,
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[tuple[str, str]] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.reason = code, message, reason
        self.metadata, self.field_violations = dict(metadata or {}), list(field_violations)
        self.retry_after = retry_after


async def abort(context: Any, error: SmgError) -> NoReturn:
    await context.abort(error.code, error.message)
    raise AssertionError
