"""What a package says to inputs of the protocol: accepted or not, and the JSON that it makes.

Run as a script it judges for the package in its own environment: names of package and file.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, cast

Verdict = dict[str, Any]
_FLOATS = {"NaN": float("nan"), "Infinity": float("inf")}


def judge(package: str, model: str, given: Any) -> Verdict:
    """`accepted`; if so, also `json` as the package writes it."""
    from pydantic import BaseModel, TypeAdapter, ValidationError

    module: Any = import_module(package)
    if model == "negotiate_version":
        try:
            return {"accepted": True, "json": json.dumps(str(module.negotiate_version(given)))}
        except ValueError:
            return {"accepted": False}
    kind = getattr(module, model)
    try:
        made = TypeAdapter(kind).validate_python(floats(given))
    except ValidationError:
        return {"accepted": False}
    assert isinstance(made, BaseModel)
    return {"accepted": True, "json": made.model_dump_json()}


def floats(value: Any) -> Any:
    """The words that stand for floats in JSON, as floats."""
    match value:
        case dict():
            entries = cast("dict[str, Any]", value)
            return {key: floats(item) for key, item in entries.items()}
        case list():
            return [floats(item) for item in value]
        case str():
            return _FLOATS.get(value, value)
        case _:
            return value


if __name__ == "__main__":
    inputs = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    print(json.dumps([judge(sys.argv[1], model, given) for model, given in inputs]))
