"""The formats of a report, against what formats/ has of it.

python tests/compat/test_formats.py    write formats/ again
"""

import json
import re
from pathlib import Path

import pytest

from smg_proto import __version__
from smg_proto.compat import Finding, Report
from smg_proto.compat._contract import Place
from smg_proto.compat._formats import markdown
from smg_proto.compat._probe import Witness
from smg_proto.compat._report import FORMATS, Format
from smg_proto.compat._text import one_line, printable

FOLDER = Path(__file__).parent / "formats"
PLACE = Place("shop/or ders.proto", 7)
LOST = Witness(
    "old to new",
    "lost",
    "shop.Order",
    "",
    "count: 7",
    "1: `7`",
    reverse=Witness("new to old", "misread", "shop.Order", "0a0161", 'name: "a"', "count: 1", True),
)
REPORT = Report(
    "git:v1, with a ` in it",
    "prötö\u200e",
    findings=(
        Finding("data", "shop.Order.count", "Was int32, is string: 100%.", LOST, place=PLACE),
        Finding("data", "Bare", "No package.", LOST),
        Finding("json", "shop.Order.count", "A string in JSON.", package="shop", place=PLACE),
        Finding("json", "shop.Order.count", "Another.", package="shop", place=PLACE),
        Finding("notice", "shop", "A new file.", package="shop", place=Place("new.proto", 0)),
        Finding("notice", "shop.New", "Is new.", package="shop.new"),
    ),
    packages=("shop", "shop.new", "shop.same", ""),
    accepted=(Finding("source", "shop.Old", "Was renamed.", None, True, "shop", PLACE),),
)


def rendered(form: Format) -> str:
    shown = REPORT.render(form, "json")
    return shown.replace(f'"version": "{__version__}"', '"version": "VERSION"') + "\n"


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_as_recorded(form: Format) -> None:
    assert rendered(form) == (FOLDER / form).read_text(encoding="utf-8")


def test_a_report_has_methods_for_the_formats_that_people_read() -> None:
    assert (REPORT.text(), REPORT.markdown(), REPORT.json()) == (
        REPORT.render("text"), REPORT.render("markdown"), REPORT.render("json"),
    )  # fmt: skip


def test_sarif_has_only_uris_where_it_must() -> None:
    """Absolute ones for rules; for files, paths with what a URI cannot have escaped."""
    (run,) = json.loads(REPORT.render("sarif"))["runs"]
    pages = {rule["helpUri"] for rule in run["tool"]["driver"]["rules"]}
    assert all(re.fullmatch(r"https://[!-~]+/docs/diff\.md", page) for page in pages)
    assert uri_of(REPORT) == "shop/or%20ders.proto"


def test_a_path_that_is_not_utf_8_is_shown_in_every_format() -> None:
    odd = Finding("data", "shop", "A new file.", place=Place("ö/\udcff:1.proto", 1))
    report = Report("old", "new", [odd])
    shown = {form: report.render(form) for form in FORMATS}
    assert uri_of(report) == "%C3%B6/%FF%3A1.proto"
    assert r"(ö/\udcff:1.proto:1)" in shown["markdown"]
    assert all(shown.values())


def uri_of(report: Report) -> str:
    """The place of the first finding."""
    (run,) = json.loads(report.render("sarif"))["runs"]
    (location,) = run["results"][0]["locations"]
    uri: str = location["physicalLocation"]["artifactLocation"]["uri"]
    return uri


def test_findings_that_do_not_fit_in_a_comment_are_counted() -> None:
    whole = markdown(REPORT)
    full = len(whole.encode())
    assert markdown(REPORT, full + 201) == whole
    assert markdown(REPORT, full + 200).endswith(
        "\n1 more findings are omitted; `--format text` shows all."
    )
    for limit in range(300, full + 200):
        shown = markdown(REPORT, limit)
        assert len(shown.encode()) <= limit
        omitted = int(re.findall(r"^(\d+) more", shown, re.M)[0])
        assert omitted + len(re.findall("^- ", shown, re.M)) == len(REPORT.findings)


def test_text_of_others_is_made_safe() -> None:
    assert printable("naïve 東京 🙂") == "naïve 東京 🙂"
    assert printable("a\x1b[1m\u202eb\u2028\n\tc\ud800") == r"a\x1b[1m\u202eb\u2028\n\tc\ud800"
    assert printable("\x1b[1m \n") == r"\x1b[1m \n"
    assert printable("ä\n\tb", keep="\n") == "ä\n\\tb"
    assert one_line("a\n  b\t c", 5) == "a b c"
    assert one_line("a\n  b\t cd", 5) == "a b c… (6 characters)"


if __name__ == "__main__":
    for each in FORMATS:
        (FOLDER / each).write_text(rendered(each), encoding="utf-8")
