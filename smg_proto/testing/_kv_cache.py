"""A prefix cache like those of engines: the cached blocks of prompts, and events of changes."""

import asyncio
import hashlib
import struct
import time
from collections.abc import Iterator, Sequence

from smg_proto import common_pb2

BLOCK_SIZE = 16
_MAX_BLOCKS = 1024


class KvCache:
    """The blocks of all prompts so far, least recently used first, and the listeners."""

    def __init__(self) -> None:
        self._blocks: dict[int, None] = {}
        self._sequence = 0
        self._event = 0
        self._listeners: set[asyncio.Queue[common_pb2.KvEventBatch]] = set()

    @property
    def used_tokens(self) -> int:
        return len(self._blocks) * BLOCK_SIZE

    @property
    def capacity(self) -> int:
        return _MAX_BLOCKS * BLOCK_SIZE

    @property
    def sequence(self) -> int:
        """The number of the last batch of events; 0 before the first."""
        return self._sequence

    def store(self, prompt: Sequence[int]) -> int:
        """Cache a prompt's full blocks. Returns how many of its tokens were cached already."""
        blocks = list(_blocks(prompt))
        new = [(number, tokens) for number, tokens in blocks if number not in self._blocks]
        known = len(blocks) - len(new)  # always the first ones, because of the order below
        for number, _ in reversed(blocks):
            self._blocks.pop(number, None)
            self._blocks[number] = None  # the end of a prompt is evicted before its start
        if new:
            stored = common_pb2.KvBlocksStored(
                blocks=[
                    common_pb2.KvBlock(block_hash=number, token_ids=tokens, block_size=BLOCK_SIZE)
                    for number, tokens in new
                ],
                parent_block_hash=blocks[known - 1][0] if known else None,
            )
            self._publish(common_pb2.KvCacheEvent(stored=stored))
        if len(self._blocks) > _MAX_BLOCKS:
            oldest = list(self._blocks)[: len(self._blocks) - _MAX_BLOCKS]
            for number in oldest:
                del self._blocks[number]
            removed = common_pb2.KvBlocksRemoved(block_hashes=oldest)
            self._publish(common_pb2.KvCacheEvent(removed=removed))
        return min(known * BLOCK_SIZE, max(len(prompt) - 1, 0))  # the last token is always computed

    def clear(self) -> None:
        self._blocks.clear()
        self._publish(common_pb2.KvCacheEvent(cleared=common_pb2.KvCacheCleared()))

    def _publish(self, event: common_pb2.KvCacheEvent) -> None:
        self._sequence += 1
        self._event += 1
        event.event_id = self._event
        batch = common_pb2.KvEventBatch(
            sequence_number=self._sequence, timestamp=time.time(), events=[event], dp_rank=0
        )
        for queue in self._listeners:
            queue.put_nowait(batch)

    def listen(self) -> asyncio.Queue[common_pb2.KvEventBatch]:
        queue: asyncio.Queue[common_pb2.KvEventBatch] = asyncio.Queue()
        self._listeners.add(queue)
        return queue

    def unlisten(self, queue: asyncio.Queue[common_pb2.KvEventBatch]) -> None:
        self._listeners.discard(queue)


def _blocks(prompt: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    """Each full block, with a hash of it and of all blocks before it."""
    number = b""
    for start in range(0, len(prompt) - BLOCK_SIZE + 1, BLOCK_SIZE):
        tokens = prompt[start : start + BLOCK_SIZE]
        packed = struct.pack(f"<{BLOCK_SIZE}I", *tokens)
        number = hashlib.blake2b(number + packed, digest_size=8).digest()
        yield int.from_bytes(number, "big", signed=True), tokens
