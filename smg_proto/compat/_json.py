"""How proto3 JSON writes a field of each type."""

from google.protobuf.descriptor import FieldDescriptor as F

from smg_proto.compat._contract import Field

# Kinds that are not listed are numbers.
_FORMS = {
    F.TYPE_INT64: "a number in a string",
    F.TYPE_UINT64: "a number in a string",
    F.TYPE_SINT64: "a number in a string",
    F.TYPE_FIXED64: "a number in a string",
    F.TYPE_SFIXED64: "a number in a string",
    F.TYPE_BOOL: "true or false",
    F.TYPE_STRING: "a string",
    F.TYPE_BYTES: "base64",
    F.TYPE_ENUM: "a value's name",
    F.TYPE_MESSAGE: "an object",
    F.TYPE_GROUP: "an object",
}
_NUMBER = "a number"
_WIDE = "a number in a string"
# Types of google.protobuf that are not written as an object of their fields.
_SPECIAL = {
    "Any": "an object with @type",
    "Duration": "a duration in a string",
    "FieldMask": "paths in a string",
    "ListValue": "a list of any values",
    "Struct": "an object of any values",
    "Timestamp": "a time in a string",
    "Value": "any value",
    "BoolValue": "true or false",
    "BytesValue": "base64",
    "DoubleValue": _NUMBER,
    "FloatValue": _NUMBER,
    "Int32Value": _NUMBER,
    "UInt32Value": _NUMBER,
    "NullValue": "null",
    "Int64Value": _WIDE,
    "UInt64Value": _WIDE,
    "StringValue": "a string",
}


def special_form(type_name: str) -> str | None:
    """The JSON form of a well-known type; None for any other."""
    package, _, name = type_name.rpartition(".")
    return _SPECIAL.get(name) if package == "google.protobuf" else None


def json_form(field: Field) -> str:
    """The JSON form of a field in words. An object's fields are compared elsewhere."""
    if field.entry:
        return f"a map (to {json_form(field.value)})"
    form = special_form(field.type_name) or _FORMS.get(field.kind, _NUMBER)
    return f"a list (each {form})" if field.repeated else form
