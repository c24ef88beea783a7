"""Compares two releases of a contract: what changed, and whom it breaks.

old = load("pypi:smg-grpc-proto==0.4.28")
report = diff(old, load("self"))
report.verdict, [finding.symbol for finding in report.findings]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smg_proto.compat._accept import Acceptance, read_acceptances
from smg_proto.compat._contract import Contract, Field, Message, Place, Rpc
from smg_proto.compat._differ import diff
from smg_proto.compat._files import ContractError
from smg_proto.compat._load import SPECS, load
from smg_proto.compat._probe import Witness
from smg_proto.compat._report import CLASSES, FORMATS, Finding, FindingClass, Report, Verdict
from smg_proto.compat._skew import Gap, Skew, skew

# Calling a server needs gRPC, whose import takes longer than comparing files.
if TYPE_CHECKING:
    from smg_proto.compat._detect import Probe as Probe
    from smg_proto.compat._detect import Spoken as Spoken
    from smg_proto.compat._detect import detect as detect
    from smg_proto.compat._detect import is_there as is_there
    from smg_proto.compat._detect import probe_of as probe_of
    from smg_proto.compat._server import Access as Access
    from smg_proto.compat._server import Server as Server

_WITH_GRPC = {
    "Access": "_server",
    "Probe": "_detect",
    "Server": "_server",
    "Spoken": "_detect",
    "detect": "_detect",
    "is_there": "_detect",
    "probe_of": "_detect",
}

__all__ = [
    "CLASSES",
    "FORMATS",
    "SPECS",
    "Acceptance",
    "Access",
    "Contract",
    "ContractError",
    "Field",
    "Finding",
    "FindingClass",
    "Gap",
    "Message",
    "Place",
    "Probe",
    "Report",
    "Rpc",
    "Server",
    "Skew",
    "Spoken",
    "Verdict",
    "Witness",
    "detect",
    "diff",
    "is_there",
    "load",
    "probe_of",
    "read_acceptances",
    "skew",
]


def __getattr__(name: str) -> Any:
    if module := _WITH_GRPC.get(name):
        return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
