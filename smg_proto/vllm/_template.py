"""Renders chat templates as transformers does, with limits on time and memory.

A template is a program from the server. Jinja's sandbox restricts what it can access; this module
limits its loops, calls and sizes.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, Final, NoReturn, cast

from smg_proto.vllm._errors import VLLMGrpcFailedPreconditionError, VLLMGrpcValidationError

MAX_SOURCE_CHARACTERS: Final = 1 << 20
MAX_RENDERED_CHARACTERS: Final = 32 << 20
MAX_VALUE: Final = 32 << 20  # characters of a text, or items of a list
MAX_STEPS: Final = 10_000_000  # loop iterations and calls
MAX_SECONDS: Final = 20.0
_SIZED: Final = (str, bytes, list, tuple)
_PADDING: Final = frozenset(
    ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill")
)
_UNLIMITED_FILTERS: Final = (
    "center", "filesizeformat", "format", "forceescape", "pprint", "urlize", "wordwrap", "xmlattr",
)  # fmt: skip


class LimitExceeded(Exception):
    """The template exceeds a limit."""


class Rejected(Exception):
    """The template rejected the messages by calling raise_exception()."""


class _Meter:
    """Counts the steps of one rendering."""

    def __init__(self) -> None:
        self._steps = 0
        self._ends = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS or time.monotonic() > self._ends:
            raise LimitExceeded


_METER: ContextVar[_Meter] = ContextVar("meter of the current rendering")


class Template:
    """A compiled template."""

    def __init__(self, template: Any, source: str, iterates_content: bool) -> None:
        self._template = template
        self._source = source
        self.iterates_content = iterates_content
        """Whether it reads a message's content as a list of parts."""

    def render(self, /, **variables: Any) -> str:
        meter = _METER.set(_Meter())
        pieces: list[str] = []
        left = MAX_RENDERED_CHARACTERS
        try:
            for piece in self._template.generate(variables):
                left -= len(piece)
                if left < 0:
                    raise LimitExceeded
                pieces.append(piece)
        except Rejected as error:
            # The text may quote a message, unless it is a literal of the template.
            text = str(error)
            reason = f": {text}" if text and text in self._source else ""
            raise VLLMGrpcValidationError(
                "messages", f"the chat template rejects them{reason}"
            ) from None
        except (LimitExceeded, MemoryError, OverflowError, RecursionError):
            raise VLLMGrpcFailedPreconditionError(
                "the server's chat template exceeds a limit of time or size"
            ) from None
        except Exception as error:  # a template can raise any
            raise VLLMGrpcValidationError(
                "messages", f"the chat template fails on them: {type(error).__name__}"
            ) from None
        finally:
            _METER.reset(meter)
        return "".join(pieces)


@lru_cache(maxsize=16)
def compiled(source: str) -> Template:
    """The template with this source."""
    try:
        import jinja2
    except ImportError:
        raise ImportError(
            "chat needs jinja2: pip install 'smg-grpc-proto[client,decode,chat]'"
        ) from None
    environment = _environment()
    try:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise LimitExceeded
        tree = environment.parse(source)
        iterates = _iterates_content(tree)
        _limit(tree)
        code = environment.compile(tree)
        known = environment.make_globals(None)
        made = environment.template_class.from_code(environment, code, known)
    except (LimitExceeded, RecursionError, MemoryError, jinja2.TemplateError) as error:
        raise VLLMGrpcFailedPreconditionError(
            f"the chat template cannot be read: {type(error).__name__}"
        ) from None
    return Template(made, source, iterates)


@cache
def _environment() -> Any:
    """Jinja's sandbox with the additions of transformers, and with limits."""
    from jinja2 import nodes, pass_eval_context
    from jinja2.ext import Extension
    from jinja2.filters import make_attrgetter
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text for training. It has no effect here."""

        tags = {"generation"}  # noqa: RUF012 (as jinja declares it)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body)

    class Limited(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("+", "*", "**", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            padding = isinstance(obj, str) and attr in _PADDING
            return not padding and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> None:
            """Let is_safe_attribute() apply to str.format too."""

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            _METER.get().step()
            subject = getattr(__obj, "__self__", None)
            if isinstance(subject, str) and args:
                _check_growth(getattr(__obj, "__name__", ""), subject, *args[:2])
            return super().call(__context, __obj, *args, **kwargs)

    made: Any = Limited(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    for name in _UNLIMITED_FILTERS:
        del made.filters[name]
    for name in ("lipsum", "cycler", "joiner"):
        del made.globals[name]
    known: dict[str, Any] = dict(made.filters)

    @pass_eval_context
    def replace(context: Any, s: Any, old: Any, new: Any, count: int | None = None) -> Any:
        _check_growth("replace", str(s), str(old), str(new))
        return known["replace"](context, s, old, new, count)

    @pass_eval_context
    def join(context: Any, value: Any, d: Any = "", attribute: str | None = None) -> Any:
        values = list(_counted(value))
        if attribute is not None:
            values = [*map(make_attrgetter(context.environment, attribute), values)]
        _check_growth("join", str(d), values)
        return known["join"](context, values, d)

    def indent(s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> Any:
        if len(str(s)) * (width if isinstance(width, int) else _size(width)) > MAX_VALUE:
            raise LimitExceeded
        return known["indent"](s, width, first, blank)

    made.filters |= {"tojson": _tojson, "counted": _counted, "joined": _joined}
    made.filters |= {"replace": replace, "join": join, "indent": indent}
    made.globals |= {"raise_exception": _raise, "strftime_now": _now}
    return made


def _raise(message: object = "") -> NoReturn:
    raise Rejected(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON without escaping for HTML."""
    if indent is not None and not 0 <= indent <= 16:
        raise LimitExceeded
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=tuple(separators) if separators else None,
        sort_keys=sort_keys,
    )


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    """The values of a loop, with a step for each."""
    meter = _METER.get()
    for value in values:
        meter.step()
        yield value


def _joined(values: list[Any]) -> str:
    """`a ~ b`."""
    texts = [str(value) for value in values]
    if sum(map(len, texts)) > MAX_VALUE:
        raise LimitExceeded
    return "".join(texts)


def _size(value: Any) -> int:
    return len(cast(Any, value)) if isinstance(value, _SIZED) else 0


def _check_operation(operator: str, left: Any, right: Any) -> None:
    size = max(_size(left), _size(right))
    if operator == "*" and size:
        times = right if _size(left) else left
        cost = size * times if isinstance(times, int) else 0
    elif operator == "+":
        cost = _size(left) + _size(right)
    elif operator == "%" and _size(left):
        cost = MAX_VALUE + 1  # a format may contain any width
    elif operator == "**":
        cost = 0 if abs(left) <= 2**32 and abs(right) <= 64 else MAX_VALUE + 1
    else:
        large = max(abs(one) if isinstance(one, int) else 0 for one in (left, right))
        cost = large.bit_length() if operator == "*" else 0
    if cost > MAX_VALUE:
        raise LimitExceeded


def _check_growth(name: str, subject: str, what: Any, by: Any = None) -> None:
    """Check the size of the text that `replace` or `join` would make."""
    if name == "replace":
        places = subject.count(what) if what else len(subject) + 1
        cost = len(subject) + places * _size(by)
    elif name == "join":
        cost = sum(_size(one) for one in what) + len(subject) * _size(what)
    else:
        return
    if cost > MAX_VALUE:
        raise LimitExceeded


def _limit(tree: Any) -> None:
    """Make loops count steps, and `~` check sizes."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    def by(name: str, node: Any) -> Any:
        return nodes.Filter(node, name, [], [], None, None)

    class Limit(NodeTransformer):
        def visit_For(self, node: Any) -> Any:
            self.generic_visit(node)
            node.iter = by("counted", node.iter)
            return node

        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            return by("joined", nodes.List(node.nodes))

    Limit().visit(tree)


def _iterates_content(tree: Any) -> bool:
    """Whether a loop iterates over the content of a message. If so, vLLM's HTTP API passes content
    as a list of parts, and so does this client."""
    from jinja2 import nodes

    def is_content(node: Any) -> bool:
        while isinstance(node, nodes.Filter):
            node = node.node
        if isinstance(node, nodes.Getattr):
            return bool(node.attr == "content")
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            return bool(node.arg.value == "content")
        return isinstance(node, nodes.Name) and node.name in names

    names: set[str] = set()
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and is_content(assignment.node):
            names.add(assignment.target.name)
    return any(is_content(loop.iter) for loop in tree.find_all(nodes.For))
