"""Messages behave as Python objects do: they pickle, copy, cross processes and read well."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from typing import Any

import pytest
from contract_facts import message_classes, modules
from google.protobuf import json_format, text_format
from google.protobuf.message import Message
from random_messages import random_message

from smg_proto import openengine_pb2, smg_pb2

KINDS = message_classes()
EACH_MODULE = pytest.mark.parametrize("module", sorted({kind.__module__ for kind in KINDS}))


def samples(module: str) -> list[Message]:
    """Of every class of a module: an empty message, a full one and one between."""
    kinds = [kind for kind in KINDS if kind.__module__ == module]
    return [
        message
        for kind in kinds
        for message in (kind(), random_message(kind, 0, full=True), random_message(kind, 1))
    ]


def test_every_module_has_messages_here() -> None:
    with_messages = {m.__name__ for m in modules() if m.DESCRIPTOR.message_types_by_name}
    assert with_messages == {kind.__module__ for kind in KINDS}


@EACH_MODULE
def test_classes_are_found_in_their_module(module: str) -> None:
    for message in samples(module):
        found: object = import_module(module)
        for part in type(message).__qualname__.split("."):
            found = getattr(found, part)
        assert found is type(message)


@EACH_MODULE
def test_messages_pickle_and_copy(module: str) -> None:
    for message in samples(module):
        copies = [copy.copy(message), copy.deepcopy(message), *copy.deepcopy([message])]
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            copies.append(pickle.loads(pickle.dumps(message, protocol)))
        for again in copies:
            assert type(again) is type(message)
            assert again == message and again is not message


@EACH_MODULE
def test_messages_have_a_text_form(module: str) -> None:
    for message in samples(module):
        for text in (text_format.MessageToString(message), repr(message), str(message)):
            assert text_format.Parse(text, type(message)()) == message


@EACH_MODULE
def test_messages_have_a_json_form(module: str) -> None:
    for message in samples(module):
        for keep_names in (False, True):
            text = json_format.MessageToJson(message, preserving_proto_field_name=keep_names)
            assert json_format.Parse(text, type(message)()) == message


@pytest.mark.parametrize("facade", [smg_pb2, openengine_pb2], ids=lambda facade: facade.__name__)
def test_the_facade_has_the_same_classes(facade: Any) -> None:
    package = facade.DESCRIPTOR.package
    ours = {kind for kind in KINDS if kind.DESCRIPTOR.file.package == package}
    tops = {kind for kind in ours if kind.DESCRIPTOR.containing_type is None}
    assert tops and {getattr(facade, kind.__name__) for kind in tops} == tops


def echo(message: Message) -> tuple[str, Message]:
    return repr(message), message


def test_messages_of_every_module_survive_a_spawned_process() -> None:
    by_module = {kind.__module__: kind for kind in KINDS}
    messages = [random_message(kind, 0, full=True) for kind in by_module.values()]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for message, (text, back) in zip(messages, pool.map(echo, messages), strict=True):
            assert type(back) is type(message) and back == message and text == repr(message)
