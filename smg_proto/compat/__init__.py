"""What changed between two releases of a contract, and whom it breaks.

old = load("pypi:smg-grpc-proto==0.4.28")
report = diff(old, load("self"))
report.verdict, [finding.symbol for finding in report.findings]
"""

from smg_proto.compat.contract import Contract
from smg_proto.compat.descriptors import ContractError
from smg_proto.compat.differ import diff
from smg_proto.compat.load import load
from smg_proto.compat.probe import Witness
from smg_proto.compat.report import CLASSES, Finding, FindingClass, Report, Verdict

__all__ = [
    "CLASSES",
    "Contract",
    "ContractError",
    "Finding",
    "FindingClass",
    "Report",
    "Verdict",
    "Witness",
    "diff",
    "load",
]
