"""The front door's log. What an exception says may quote a request, so only its type is written."""

import logging
import traceback

log: logging.Logger = logging.getLogger("smg_proto.frontdoor")


def log_defect(where: str, error: BaseException) -> None:
    """One entry for an exception that nothing expected: its type and where it was raised."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s failed error=%s\n%s", where, type(error).__name__, frames)


class _WithoutMetadata(logging.Filter):
    """gRPC logs a metadata value that is not UTF-8 as it came, and it may be a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Invalid encoding on"):
            record.msg, record.args, record.exc_info = "metadata that is not UTF-8", (), None
        return True


_FILTER = _WithoutMetadata()


def keep_metadata_out_of_logs() -> None:
    """Once or more often: a logger takes the same filter once."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_FILTER)
