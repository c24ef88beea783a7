"""The comments of smg.v1 that say `HTTP: name`, and the tables, tell the same names."""

import re
from collections.abc import Iterator
from typing import Any

from frontdoor.golden import CASES
from frontdoor.tables import every_table
from smg_proto import descriptor_set

# What a comment says about a name, beside names.
PROSE = re.compile(
    r"\b(in messages and responses|in messages|in responses|of an MCP call|of GET \S+"
    r"|of \S*generate|one request each|with|type|as an? \w+|an object|true|negated|and)\b"
)
NAME = re.compile(r"\b[a-z][a-z_]*(?:\.[a-z_]+)*\b")
# Renamed over HTTP, and no comment says so: the name is obvious, or is one of several.
UNTOLD = {
    "ChatMessage.parts",
    "ChatChoice.logprobs",
    "ChatDelta.logprobs",
    "ClassifyResponse.results",
    "CompletionRequest.max_tokens",
    "CompletionRequest.prompts",
    "CompletionRequest.output_format",
    "CompletionRequest.sampling",
    "CompletionRequest.seed",
    "CompletionResponse.token_ids",
    "CompletionResponse.usage",
    "ContentPart.image",
    "ContentPart.video",
    "DecideRequest.parts",
    "DecisionAnswer.refused",
    "EmbedResponse.embeddings",
    "Embedding.values",
    "Failure.reason",
    "ListModelsResponse.models",
    "MessageBlock.image",
    "OutputFormat.json_object",
    "OutputFormat.json_schema",
    "Reasoning.text",
    "SamplingParams.min_tokens",
    "TokenLogprob.top",
    "ToolCall.output_parts",
    "ToolResult.content",
    "ToolResult.parts",
    "TranscriptionSegment.text",
    "Usage.cached_tokens",
    "Usage.reasoning_tokens",
    "Worker.error",
    "Worker.state_time",
}


def comments() -> Iterator[tuple[str, str]]:
    """Each field of smg.v1, and its comment as one line."""
    for file in descriptor_set().file:
        if file.package != "smg.v1":
            continue
        for location in file.source_code_info.location:
            match list(location.path):
                case [4, message, 2, field]:
                    holder = file.message_type[message]
                    yield (
                        f"{holder.name}.{holder.field[field].name}",
                        " ".join(location.leading_comments.split()),
                    )


def result() -> dict[str, set[str]]:
    """The names after `HTTP:`, to the end of that sentence."""
    found: dict[str, set[str]] = {}
    for field, comment in comments():
        for sentence in re.findall(r"HTTP: (.*?)(?:\.(?: |$)|\)|$)", comment):
            if not sentence.startswith(("GET ", "POST ", "the header ")):
                found.setdefault(field, set()).update(NAME.findall(PROSE.sub("", sentence)))
    return found


def members() -> dict[str, set[str]]:
    """Each field, and the paths that the tables have for it."""
    found: dict[str, set[str]] = {}
    for table in every_table():
        for name, row in table.rows.items():
            field = f"{table.message.DESCRIPTOR.name}.{name}"
            found.setdefault(field, set()).update([row.path] if row.path else [])
    return found


def keys(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        yield from data
    for inner in (
        data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    ):
        yield from keys(inner)


def ends_with(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def test_a_name_in_a_comment_is_a_name_in_the_tables() -> None:
    """Where a function writes several members, it is a name in what it writes."""
    tables, written = members(), {key for case in CASES for key in keys(case)}
    types = {str(value) for case in CASES for value in kinds(case)}
    checked = 0
    for field, names in result().items():
        for name in names:
            paths = tables.get(field, set())
            known = any(ends_with(path, name) or name in path.split(".") for path in paths)
            if not known and not paths:
                known = set(name.split(".")) <= written or name in types
            assert known or name in types, f"{field}: HTTP: {name}, but the tables have {paths}"
            checked += 1
    assert checked > 70


def kinds(data: Any) -> Iterator[Any]:
    """The `type`s of what golden requests and replies hold."""
    if isinstance(data, dict):
        if "type" in data:
            yield data["type"]
        data = list(data.values())
    for inner in data if isinstance(data, list) else ():
        yield from kinds(inner)


def test_the_comment_of_a_field_has_its_other_http_name() -> None:
    output = result()
    untold = set[str]()
    for field, paths in members().items():
        own = field.partition(".")[2]
        renamed = {path for path in paths if not ends_with(path, own)}
        names = output.get(field, set())
        if any(not any(ends_with(path, name) for name in names) for path in renamed):
            untold.add(field)
    assert untold == UNTOLD
