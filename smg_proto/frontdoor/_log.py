"""The front door's log. It never holds exception messages, which may quote a request."""

import logging
import traceback

log: logging.Logger = logging.getLogger("smg_proto.frontdoor")


def log_unexpected_error(where: str, error: BaseException) -> None:
    """Log an unexpected exception: its type and traceback, without its message."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s failed error=%s\n%s", where, type(error).__name__, frames)


class _WithoutMetadata(logging.Filter):
    """Removes metadata values, which may be keys: gRPC logs those that are not UTF-8."""

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Invalid encoding on"):
            record.msg, record.args, record.exc_info = "metadata that is not UTF-8", (), None
        return True


_FILTER = _WithoutMetadata()


def keep_metadata_out_of_logs() -> None:
    """Install the filter. Calling this again has no effect."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_FILTER)
