"""What a contract implements: building requests and reading replies."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from google.protobuf.message import Message

from smg_proto.engine._errors import ParameterError, UnsupportedError
from smg_proto.engine._request import CheckedParams
from smg_proto.engine._types import Health, Info, Load, Logprob, Piece

# Parameters that the client handles itself, for every contract.
CLIENT_PARAMETERS = frozenset(("request_id", "timeout", "metadata"))


@dataclass(frozen=True, slots=True)
class Call:
    """An RPC with its request."""

    path: str
    request: Message
    reply: type[Message]


class Reader:
    """Reads the messages of one generation, in order."""

    def read(self, message: Any) -> Iterable[Piece]:
        """The pieces that the message adds."""
        raise NotImplementedError

    def end(self, unfinished: Sequence[int]) -> Iterable[Piece]:
        """The last pieces of sequences that were unfinished when the stream ended with OK. Empty
        if the contract does not allow that, which makes it an error."""
        return ()


class PromptReader(Reader):
    """Adds the log probabilities of the prompt, once, to another reader's pieces."""

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

    def end(self, unfinished: Sequence[int]) -> Iterable[Piece]:
        return self._reader.end(unfinished)


class Contract:
    """One contract. The class attributes say what it can express. Instances have no state."""

    name: ClassVar[str]
    service: ClassVar[str]
    fields: ClassVar[Mapping[str, str]]
    """Parameter to the path of the field that takes its value unchanged."""
    handled: ClassVar[frozenset[str]] = frozenset()
    """Parameters that `generate` writes itself."""
    has_text: ClassVar[bool] = False
    """Whether a text prompt is continued with text."""
    why: ClassVar[Mapping[str, str]] = {}
    """Unsupported parameter to the reason, if there is more to say than that it has no field."""

    def check_supported(self, params: CheckedParams) -> None:
        """UnsupportedError for the first parameter that the contract cannot express."""
        for parameter in params:
            if parameter not in self.fields and parameter not in self.handled | CLIENT_PARAMETERS:
                raise self.unsupported(parameter)

    def unsupported(self, what: str, why: str = "") -> UnsupportedError:
        return UnsupportedError(
            self.name, what, why or self.why.get(what, "the contract has no field for it")
        )

    def fill(self, message: Message, params: CheckedParams) -> None:
        """Write the parameters that have a field."""
        for parameter, value in params.items():
            if parameter in self.fields:
                put(message, self.fields[parameter], parameter, value)

    def request_logprobs(self, request: Any, params: CheckedParams) -> None:
        """Fill SGLang's fields for log probabilities, which have one number for both kinds."""
        numbers = {params[name] for name in ("logprobs", "prompt_logprobs") if name in params}
        if len(numbers) > 1:
            what = "different numbers for logprobs and prompt_logprobs"
            raise self.unsupported(what, "the contract has one field for both")
        if numbers:
            request.return_logprob = True
            (request.top_logprobs_num,) = numbers
        if "prompt_logprobs" in params:
            request.logprob_start_len = 0

    def call(self, rpc: str, request: Message, reply: type[Message]) -> Call:
        return Call(f"/{self.service}/{rpc}", request, reply)

    # Each contract implements these.

    def generate(self, params: CheckedParams, stream: bool) -> Call:
        """The generating RPC, always a streaming one. `stream` is false for complete()."""
        raise NotImplementedError

    def reader(self, params: CheckedParams, stream: bool, facts: Any) -> Reader:
        """The reader of one generation. `facts` is the result of the method `facts`, or None."""
        raise NotImplementedError

    def prompt_logprobs(self, message: Any) -> tuple[Logprob | None, ...]:
        """The log probabilities of the prompt in a message; empty if it has none."""
        raise NotImplementedError

    def facts_call(self) -> Call | None:
        """The call for facts about the server that its streams' reader needs, if any."""
        return None

    def facts(self, reply: Any) -> Any:
        """The facts in the reply to `facts_call`."""
        raise NotImplementedError

    def tokenizer_call(self) -> Call:
        """The RPC that streams the files of the tokenizer."""
        raise self.unsupported("tokenizer()", "the contract has no RPC for it")

    def abort(self, request_id: str) -> Call:
        raise NotImplementedError

    def info_calls(self) -> Sequence[Call]:
        raise NotImplementedError

    def info(self, replies: Sequence[Any]) -> Info:
        raise NotImplementedError

    def load_call(self) -> Call:
        raise self.unsupported("load()", "the contract has no RPC for it")

    def load(self, reply: Any) -> Load:
        raise NotImplementedError

    def health_call(self) -> Call:
        raise NotImplementedError

    def health(self, reply: Any) -> Health:
        return Health(reply.healthy, getattr(reply, "message", ""))


def under(message: str, *same: str, **named: str) -> dict[str, str]:
    """Fields in a nested message: `same` have the parameter's name, `named` have another one."""
    names = {name: name for name in same} | named
    return {parameter: f"{message}.{field}" for parameter, field in names.items()}


def put(message: Any, path: str, parameter: str, value: Any) -> None:
    """Write a value into a field."""
    *parents, field = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    try:
        if isinstance(value, list):
            getattr(message, field).extend(value)
        elif isinstance(value, dict):
            getattr(message, field).update(value)
        else:
            setattr(message, field, value)
    except ValueError:  # protobuf: the number does not fit the field's type
        raise ParameterError(parameter, "out of the contract's range") from None


def known(number: int) -> int | None:
    """The number, or None for 0, which means unknown."""
    return number or None


def over_ranks(
    reply: Message, ranks: Sequence[Any], running: str, waiting: str, usage: str
) -> Load:
    """The load of all ranks together."""
    return Load(
        sum(getattr(rank, running) for rank in ranks),
        sum(getattr(rank, waiting) for rank in ranks),
        max((getattr(rank, usage) for rank in ranks), default=None),
        (reply,),
    )
