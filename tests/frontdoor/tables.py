"""Every table of the mapping, however deep it lies."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from smg_proto._http import mapping
from smg_proto._http.fields import Table, Variants
from smg_proto._http.mapping import (
    chat,
    completion,
    conversation,
    media,
    message,
    others,
    response,
)

# What each RPC writes.
REQUEST_TABLES: dict[str, Table[Any]] = {
    "completion": completion.REQUEST,
    "generate": completion.GENERATE_REQUEST,
    "chat": chat.REQUEST,
    "message": message.REQUEST,
    "count": message.COUNT_REQUEST,
    "response": response.REQUEST,
    "embed": others.EMBED_REQUEST,
    "classify": others.CLASSIFY_REQUEST,
    "rerank": others.RERANK_REQUEST,
    "tokenize": others.TOKENIZE_REQUEST,
    "detokenize": others.DETOKENIZE_REQUEST,
    "parse reasoning": others.PARSE_REASONING_REQUEST,
    "parse calls": others.PARSE_CALLS_REQUEST,
    "create worker": others.CREATE_WORKER,
    "update worker": others.UPDATE_WORKER,
    "replace worker": others.REPLACE_WORKER,
    "create tokenizer": others.CREATE_TOKENIZER,
    "create conversation": conversation.CREATE,
    "create items": conversation.CREATE_ITEMS,
    "transcribe": media.TRANSCRIBE_REQUEST,
    "realtime session": media.REALTIME_SESSION,
    "transcription session": media.TRANSCRIPTION_SESSION,
    "client secret": media.CLIENT_SECRET,
    "decide": media.DECIDE_REQUEST,
}
# What each RPC reads.
REPLY_TABLES: dict[str, Table[Any]] = {
    "completion": completion.REPLY,
    "generate": completion.GENERATE_REPLY,
    "chat": chat.REPLY,
    "message": message.REPLY,
    "count": message.COUNT_REPLY,
    "response": response.REPLY,
    "stored items": response.STORED_ITEMS,
    "embed": others.EMBED_REPLY,
    "classify": others.CLASSIFY_REPLY,
    "rerank": others.RERANK_REPLY,
    "tokenize": others.TOKENIZE_REPLY,
    "detokenize": others.DETOKENIZE_REPLY,
    "parse reasoning": others.PARSE_REASONING_REPLY,
    "parse calls": others.PARSE_CALLS_REPLY,
    "models": others.MODEL_LIST,
    "model": others.LISTED_MODEL,
    "workers": others.WORKER_LIST,
    "loads": others.LOADS,
    "flushed": others.FLUSHED,
    "tokenizers": others.TOKENIZER_LIST,
    "tokenizer": others.TOKENIZER,
    "tokenizer status": others.TOKENIZER_STATUS,
    "server info": others.SERVER_INFO,
    "model info": others.MODEL_INFO,
    "conversation": conversation.REPLY,
    "conversation items": conversation.ITEMS,
    "created items": conversation.CREATED_ITEMS,
    "transcription": media.TRANSCRIPTION,
    "decisions": media.DECIDE_REPLY,
}


def every_table() -> Iterator[Table[Any]]:
    """Those that are module members, and all that they are made of."""
    seen: set[int] = set()

    def inside(thing: Any) -> Iterator[Table[Any]]:
        if isinstance(thing, Table) and id(thing) not in seen:
            seen.add(id(thing))
            yield thing
            for row in thing.rows.values():
                for function in (row.write, row.read):
                    yield from inside(getattr(function, "__self__", None))
        elif isinstance(thing, Variants):
            for table in (*thing._writes.values(), *thing._reads.values()):
                yield from inside(table)

    for found in pkgutil.iter_modules(mapping.__path__):
        module = importlib.import_module(f"{mapping.__name__}.{found.name}")
        for member in vars(module).values():
            yield from inside(member)
