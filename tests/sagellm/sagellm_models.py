"""Values of every model that has a message, for property tests."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel

import smg_proto.sagellm
from smg_proto.sagellm import Unknown
from smg_proto.sagellm._bounds import BOUNDS
from smg_proto.sagellm._wire import Wire

WIRE: dict[str, type[Wire[Any]]] = {
    name: kind
    for name in smg_proto.sagellm.__all__
    if isinstance(kind := getattr(smg_proto.sagellm, name), type)
    and issubclass(kind, Wire)
    and kind.__name__ == name != "StreamEventUnknown"
}
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


def facts(*kinds: str) -> list[dict[str, str]]:
    """The lines of the fields file about models or enums of the protocol."""
    head, *lines = (
        Path(__file__).with_name("protocol_fields.tsv").read_text(encoding="utf-8").splitlines()
    )
    rows = [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]
    return [row for row in rows if row["kind"] in kinds and row["status"] != "renamed"]


def models(kind: type[Wire[Any]], *, finite: bool = False) -> st.SearchStrategy[Any]:
    """Valid models, made from all fields or from some. finite: such that JSON can carry them."""
    fields = {
        name: _values(info.annotation, BOUNDS.get(f"{kind.__name__}.{name}", {}), finite)
        for name, info in kind.model_fields.items()
    }
    required = {
        name: fields[name] for name, info in kind.model_fields.items() if info.is_required()
    }
    optional = {name: fields[name] for name in fields.keys() - required.keys()}
    return st.fixed_dictionaries(required, optional=optional).map(kind.model_validate)


def _values(annotation: Any, bounds: dict[str, float], finite: bool) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(arguments[0], bounds, finite)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(_values(arguments[0], {}, finite), max_size=3)
    if origin is dict:
        return st.dictionaries(_TEXT, _TEXT if arguments[1] is str else _JSON, max_size=3)
    if arguments:
        assert origin is UnionType or arguments, annotation
        return st.one_of([_values(one, bounds, finite) for one in arguments])
    if annotation is NoneType:
        return st.none()
    if annotation is Unknown:
        return st.nothing() if finite else st.integers(100, 2**31 - 1).map(Unknown)
    if annotation is int:
        low = bounds.get("ge", bounds.get("gt", -(2**63) - 1) + 1)
        return st.integers(int(low), int(bounds.get("le", 2**63 - 1)))
    if annotation is float:
        return st.floats(
            bounds.get("ge", bounds.get("gt")),
            bounds.get("le"),
            exclude_min="gt" in bounds,
            allow_nan=False,
            allow_infinity=False if finite or "le" in bounds else None,
        )
    if annotation is bool:
        return st.booleans()
    if annotation is str:
        return _TEXT
    if issubclass(annotation, BaseModel):
        return models(WIRE[annotation.__name__], finite=finite)
    return st.sampled_from(list(annotation))
