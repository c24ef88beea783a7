"""What changed between two releases of a contract, and whom it breaks.

old = load("pypi:smg-grpc-proto==0.4.28")
report = diff(old, load("self"))
report.verdict, [finding.symbol for finding in report.findings]
"""

from smg_proto.compat._contract import Contract, Field, Message
from smg_proto.compat._differ import diff
from smg_proto.compat._files import ContractError
from smg_proto.compat._load import SPECS, load
from smg_proto.compat._probe import Witness
from smg_proto.compat._report import CLASSES, Finding, FindingClass, Report, Verdict
from smg_proto.compat._server import Access, Server
from smg_proto.compat._skew import Gap, Skew, skew

__all__ = [
    "CLASSES",
    "SPECS",
    "Access",
    "Contract",
    "ContractError",
    "Field",
    "Finding",
    "FindingClass",
    "Gap",
    "Message",
    "Report",
    "Server",
    "Skew",
    "Verdict",
    "Witness",
    "diff",
    "load",
    "skew",
]
