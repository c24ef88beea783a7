"""What a contract has to say: how it asks, and how its replies are read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from google.protobuf.message import Message

from smg_proto.engine._errors import ParameterError, UnsupportedError
from smg_proto.engine._request import Asked
from smg_proto.engine._types import Health, Info, Load, Logprob, Piece

# These are the client's own, whatever the contract.
OWN = frozenset(("request_id", "timeout", "metadata"))


@dataclass(frozen=True, slots=True)
class Call:
    """An RPC with its request."""

    path: str
    request: Message
    reply: type[Message]


class Reader:
    """Reads the messages of one generation, in order."""

    def read(self, message: Any) -> Iterable[Piece]:
        """What the message adds."""
        raise NotImplementedError

    def end(self, left: Sequence[int]) -> Iterable[Piece]:
        """What it means that the stream has ended well while these sequences have not: a fault,
        unless the contract says otherwise."""
        return ()


class PromptReader(Reader):
    """Adds the log probabilities of the prompt, once, to what another reader reads."""

    def __init__(self, reader: Reader, contract: "Contract") -> None:
        self._reader, self._contract = reader, contract
        self._done = False

    def read(self, message: Any) -> Iterable[Piece]:
        pieces = [*self._reader.read(message)]
        if not self._done and (found := self._contract.prompt_logprobs(message)):
            self._done = True
            if not pieces:
                pieces.append(Piece(0, "" if self._contract.has_text else None))
            pieces[0].prompt_logprobs = found
        return pieces

    def end(self, left: Sequence[int]) -> Iterable[Piece]:
        return self._reader.end(left)


class Contract:
    """One contract. The class attributes say what it can express; instances have no state."""

    name: ClassVar[str]
    service: ClassVar[str]
    fields: ClassVar[Mapping[str, str]]
    """Parameter to the field that takes its value as it is; dots lead into messages."""
    handled: ClassVar[frozenset[str]] = frozenset()
    """Parameters that `generate` writes by itself."""
    has_text: ClassVar[bool] = False
    """Whether a text prompt is continued with text."""
    why: ClassVar[Mapping[str, str]] = {}
    """Why the contract does not take a parameter, where more can be said than that."""

    def refuse(self, asked: Asked) -> None:
        """UnsupportedError for the first parameter that the contract cannot express."""
        for parameter in asked:
            if parameter not in self.fields and parameter not in self.handled | OWN:
                raise self.unsupported(parameter)

    def unsupported(self, what: str, why: str = "") -> UnsupportedError:
        return UnsupportedError(
            self.name, what, why or self.why.get(what, "it has no field for it")
        )

    def fill(self, message: Message, asked: Asked) -> None:
        """Write the parameters that have a field."""
        for parameter, value in asked.items():
            if parameter in self.fields:
                put(message, self.fields[parameter], parameter, value)

    def score(self, request: Any, asked: Asked) -> None:
        """SGLang's fields for log probabilities, with one number for prompt and output."""
        wanted = {asked[name] for name in ("logprobs", "prompt_logprobs") if name in asked}
        if len(wanted) > 1:
            raise self.unsupported(
                "prompt_logprobs beside another number of logprobs", "it has one number for both"
            )
        if wanted:
            request.return_logprob = True
            (request.top_logprobs_num,) = wanted
        if "prompt_logprobs" in asked:
            request.logprob_start_len = 0

    def call(self, rpc: str, request: Message, reply: type[Message]) -> Call:
        return Call(f"/{self.service}/{rpc}", request, reply)

    # What each contract does in its own way.

    def generate(self, asked: Asked, stream: bool) -> Call:
        """The RPC that generates; it always streams. `stream` false: the caller waits for all."""
        raise NotImplementedError

    def reader(self, asked: Asked, stream: bool, facts: Any) -> Reader:
        """`facts` is what `learn` has made of the server's reply."""
        raise NotImplementedError

    def prompt_logprobs(self, message: Any) -> tuple[Logprob | None, ...]:
        """Those that a message has, if it has any."""
        raise NotImplementedError

    def learn_call(self) -> Call | None:
        """What has to be known of the server before its streams can be read."""
        return None

    def learn(self, reply: Any) -> Any:
        raise NotImplementedError

    def tokenizer_call(self) -> Call:
        """The RPC that streams the files of the tokenizer."""
        raise self.unsupported("tokenizer()", "it has no RPC for it")

    def abort(self, request_id: str) -> Call:
        raise NotImplementedError

    def info_calls(self) -> Sequence[Call]:
        raise NotImplementedError

    def info(self, replies: Sequence[Any]) -> Info:
        raise NotImplementedError

    def load_call(self) -> Call:
        raise self.unsupported("load()", "it has no RPC for it")

    def load(self, reply: Any) -> Load:
        raise NotImplementedError

    def health_call(self) -> Call:
        raise NotImplementedError

    def health(self, reply: Any) -> Health:
        return Health(reply.healthy, getattr(reply, "message", ""))


def under(message: str, *same: str, **named: str) -> dict[str, str]:
    """Fields of one message: those called like the parameter, and those of another name."""
    names = {name: name for name in same} | named
    return {parameter: f"{message}.{field}" for parameter, field in names.items()}


def put(message: Any, path: str, parameter: str, value: Any) -> None:
    """Write a value into a field."""
    *way, field = path.split(".")
    for name in way:
        message = getattr(message, name)
    try:
        if isinstance(value, list):
            getattr(message, field).extend(value)
        elif isinstance(value, dict):
            getattr(message, field).update(value)
        else:
            setattr(message, field, value)
    except ValueError:  # of protobuf, for a number outside of the field's type
        raise ParameterError(parameter, "is outside of the range that the contract has") from None


def known(number: int) -> int | None:
    """A number of which 0 means that it is not known."""
    return number or None


def over_ranks(
    reply: Message, ranks: Sequence[Any], running: str, waiting: str, usage: str
) -> Load:
    """The load of several ranks as one."""
    return Load(
        sum(getattr(rank, running) for rank in ranks),
        sum(getattr(rank, waiting) for rank in ranks),
        max((getattr(rank, usage) for rank in ranks), default=None),
        (reply,),
    )
