"""Every golden vector through a program in another language, and what came of it.

The program reads requests and writes replies, a line of JSON each, in order:

    {"message": "smg.v1.Failure", "hex": "0a0141"}           decode, and encode again
    {"json": {"reason": "A"}, "hex": "0a0141"}
    {"message": "smg.v1.Failure", "json": {"reason": "A"}}   encode
    {"hex": "0a0141"}
    {"message": "smg.v1.ChatEvent", "events": ["0a00", "1a00"]}   what a stream adds up to
    {"hex": ""}                                                   and "text", its text deltas

or {"error": "what was wrong"}. It ends when its input ends.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import _vectors
from _frozen import RESET, Frozen
from golden import Golden, todays_classes, written
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from google.protobuf.text_format import MessageToString

Reply = dict[str, Any]


@dataclass(frozen=True)
class Vector:
    message: str
    case: str
    json: str  # as text, so that vectors can be told apart
    hex: str

    @property
    def value(self) -> Any:
        return json.loads(self.json)

    @property
    def type(self) -> type[Message]:
        return todays_classes()[self.message]

    def parsed(self) -> Message:
        return self.type.FromString(bytes.fromhex(self.hex))

    def known(self) -> Message:
        message = self.parsed()
        message.DiscardUnknownFields()
        return message


def every_vector(scratch: Path) -> list[Vector]:
    """The vectors of all frozen releases and of this checkout, each once."""
    golden = Golden(Frozen.here())
    _vectors.write("smg_proto", scratch)
    found: set[Vector] = set()
    for path in [*golden.frozen.fixtures(), *scratch.glob("*.jsonl")]:
        release = path.parent.name if path.parent != scratch else None
        if path.stem in RESET.get(release or "", ()):
            continue  # not what this package promises
        for line in path.read_text(encoding="utf-8").splitlines():
            vector = json.loads(line)
            name, case, value, wire = (vector[key] for key in ("message", "case", "json", "hex"))
            if release and name not in todays_classes():
                assert golden.gone(release, name), f"{name} of {release} is gone"
                continue
            if release and golden.names_changed(release, name):
                value = MessageToDict(todays_classes()[name].FromString(bytes.fromhex(wire)))
            found.add(Vector(name, case, json.dumps(value, sort_keys=True), wire))
    return sorted(found, key=lambda vector: (vector.message, vector.case, vector.hex))


class Executor:
    def __init__(self, command: Sequence[str | Path]) -> None:
        self.command = [str(word) for word in command]

    def ask(self, requests: Sequence[Any]) -> list[Reply]:
        """The replies to these requests, from one run of the program."""
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        done = subprocess.run(self.command, input=lines, capture_output=True, text=True)
        replies = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
        assert len(replies) == len(requests), f"{len(replies)} replies; {done.stderr[-2000:]}"
        return replies

    def outcomes(self, vectors: Sequence[Vector]) -> Iterator[tuple[str, str | None]]:
        """ "check message case" of each vector, and what is wrong or None."""
        decoded = self.ask([{"message": v.message, "hex": v.hex} for v in vectors])
        encoded = self.ask([{"message": v.message, "json": v.value} for v in vectors])
        for vector, there, back in zip(vectors, decoded, encoded, strict=True):
            name = f"{vector.message} {vector.case}"
            yield f"decode {name}", json_problem(vector, there)
            yield f"again {name}", wire_problem(vector.type, vector.parsed(), there)
            yield f"encode {name}", wire_problem(vector.type, vector.known(), back)


def json_problem(vector: Vector, reply: Reply) -> str | None:
    """Why a program's JSON is not the vector's."""
    if "json" not in reply:
        return f"refused: {reply.get('error')}"
    if reply["json"] == vector.value:
        return None
    if not same(reply["json"], vector.value):
        return f"other JSON: {shortened(reply['json'])}, not {shortened(vector.value)}"
    try:  # A float may be written with more digits than it has.
        message = ParseDict(reply["json"], vector.type())
    except ParseError as error:
        return f"JSON that Python refuses: {error}"
    return None if written(message) == written(vector.known()) else "a number differs"


def wire_problem(kind: type[Message], wanted: Message, reply: Reply) -> str | None:
    """Why a program's bytes do not say what they should."""
    if "error" in reply:
        return f"refused: {reply['error']}"
    try:
        message = kind.FromString(bytes.fromhex(reply["hex"]))
    except DecodeError as error:
        return f"bytes that Python refuses: {error}"
    return None if shown(message) == shown(wanted) else f"other bytes: {reply['hex'][:200]}"


def shown(message: Message) -> str:
    """All of a message as text; unlike its bytes, the same for every not-a-number."""
    return MessageToString(message, print_unknown_fields=True)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values differ in numbers at most."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case list(), list():
            return len(one) == len(other) and all(map(same, one, other))
        case bool(), _:
            return one is other
        case ((int() | float()), (int() | float())):
            return not isinstance(other, bool)
        case _:
            return bool(one == other)


def shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else f"{text[:200]}…"


def unexpected(outcomes: Iterator[tuple[str, str | None]], expected: Path) -> list[str]:
    """Failures that the file does not expect, and entries of it that expect what does not happen.

    An entry is "check message case", where * stands for anything: something that it fits must fail.
    """
    entries = [
        line
        for line in expected.read_text(encoding="utf-8").splitlines()
        if line and line[0] != "#"
    ]
    stale = set(entries)
    found: list[str] = []
    for name, problem in outcomes:
        fitting = [entry for entry in entries if problem and fnmatchcase(name, entry)]
        stale.difference_update(fitting)
        if problem and not fitting:
            found.append(f"{name}: {problem}")
    return [*found, *(f"{entry}: expected to fail, but does not" for entry in sorted(stale))]
