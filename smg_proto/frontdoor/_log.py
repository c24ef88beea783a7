"""The front door's log. What an exception says may quote a request, so only its type is written."""

import logging
import traceback

log: logging.Logger = logging.getLogger("smg_proto.frontdoor")


def log_defect(where: str, error: BaseException) -> None:
    """One entry for an exception that nothing expected: its type and where it was raised."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s failed error=%s\n%s", where, type(error).__name__, frames)
