"""Phrases that read like a translation stay away, and contracts use one word for one thing."""

import re
from collections.abc import Iterator, Mapping

import pytest
from support import ROOT, tracked

# A regular expression, whose blanks match any gap, and what to say instead.
EVERYWHERE = {
    r"amounts to": "is",
    r"(?:is|are) answered with": "returns",
    r"as a rule": "usually",
    r"at odds": "inconsistent, conflicts",
    r"at the moment": "currently",
    r"at work": "in flight, running",
    r"before a gateway": "in front of a gateway",
    r"by its own account": "as it reports",
    r"by the engine's own": "as the engine reports",
    r"by whatever way": "however",
    r"ends the work": "stops generation",
    r"dearer|too dear": "costs more, too expensive",
    r"engine's servicer": "TensorRT-LLM's servicer",
    r"favour": "favor",
    r"gone on from": "continued",
    r"honour": "honor",
    r"(?:is|are) to be had": "is available",
    r"may want an?": "may require",
    r"more is more": "higher is preferred",
    r"of this side": "of the client",
    r"of yours": "your own",
    r"passes on": "forwards",
    r"takes? apart": "splits, tokenizes",
    r"tells? of": "reports",
    r"the present load": "the current load",
    r"the published servicers? \(": "Observed in smg-grpc-servicer X.Y.Z:",
    r"(?:is|are) to be preferred": "is preferred",
    r"trap:": "Caution:",
    r"unheard": "unnoticed",
    r"waited for in vain": "did not arrive",
    r"wants an?": "requires",
    r"what (?:it has|they have) not": "what is missing",
}
# Plain words elsewhere, but contracts have another one for this.
CONTRACTS = {
    r"as it came": "unchanged",
    r"comes? back": "is returned",
    r"(?:does|do) not tell": "does not report",
    r"goes? on": "continues",
    r"in step": "parallel",
    r"(?<!there\s)is no(?! (?:longer|more|penalty))": "is not a",
    r"most (?:tokens|items|requests|inputs|workers|models)": "maximum number of",
    r"not asked for": "not requested",
    r"not said": "unknown, not reported",
    r"[01] or more": "at least",
    r"refus(?:e|es|ed)": "rejects",
    r"told": "given, reported",
    r"and up to 1": "and at most 1",
    r"wants?": "requires",
    r"whoever holds": "the owner of",
}
# Tests quote what was; a changelog is history; the rest is generated from what is checked.
UNCHECKED = re.compile(
    r"^tests/|^CHANGELOG\.md$|^docs/reference/|^smg_grpc_proto/|_pb2|/_sync/|_standard_files\.py$"
)
GAP = r"\s+(?:(?://|#)\s*)?"  # or the end of a line and the comment mark of the next one


def names(*suffixes: str) -> list[str]:
    return [name for name in tracked() if name.endswith(suffixes) and not UNCHECKED.search(name)]


def found(text: str, phrases: Mapping[str, str]) -> Iterator[tuple[int, str, str]]:
    """The line of each phrase, its words, and what to say instead."""
    any_of = "|".join(f"({phrase.replace(' ', GAP)})" for phrase in phrases)
    instead = [*phrases.values()]
    for hit in re.finditer(rf"\b(?:{any_of})(?!\w)", text.lower()):
        line = text.count("\n", 0, hit.start()) + 1
        yield line, " ".join(hit[0].split()), instead[(hit.lastindex or 1) - 1]


def complaints(files: list[str], phrases: Mapping[str, str]) -> list[str]:
    assert files
    listed: list[str] = []
    for name in files:
        text = (ROOT / name).read_text(encoding="utf-8")
        if name.endswith(".proto"):
            text = re.sub(r"(?m)^(?!\s*//).+$", "", text)  # names are not prose
        for line, words, instead in found(text, phrases):
            listed.append(f'{name}:{line}: "{words}"; say: {instead}')
    return listed


def test_no_phrase_that_reads_like_a_translation() -> None:
    assert complaints(names(".proto", ".md", ".py"), EVERYWHERE) == []


def test_contracts_use_one_word_for_one_thing() -> None:
    protos = [name for name in names(".proto") if name.startswith("proto/")]
    assert complaints(protos, CONTRACTS) == []


@pytest.mark.parametrize(
    "text",
    ["\n// As a rule, none.\n", "\n// None, as\n  // a rule.\n", "x = 1\n# none as a\n# rule\n"],
)
def test_a_phrase_is_found_across_lines_and_comment_marks(text: str) -> None:
    ((line, _, instead),) = found(text, EVERYWHERE)
    assert (line, instead) == (2, "usually")


def test_a_part_of_a_word_is_not_a_phrase() -> None:
    assert list(found("has a rulebook; retold", {"as a rule": "", "told": ""})) == []
