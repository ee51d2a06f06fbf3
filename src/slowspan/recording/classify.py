"""Was a sampled thread computing or waiting?

The sampler holds the interpreter lock while it looks, so the sampled thread is outside: it gave the lock up of its own
accord inside a call that waits (or computes in C without the lock), or by force, which happens at a few instructions
only. Each rule here was checked on 3.10 – 3.13 against workloads that measure their own truth (``bench/truth``).
"""

from __future__ import annotations

import opcode
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from slowspan.recording.trace import COMPUTING, WAITING

if TYPE_CHECKING:
    from types import CodeType

UNCLEAR = -1
"""A second look at the thread's CPU clock must tell."""

NEARLY_ALL = 0.9
"""Share of the time since the last sample in which a thread did one thing, to be taken to do it still."""

FORCED_SHARE = 0.5
"""A thread from which the lock was taken computes as soon as it is given back, which takes a moment."""

FREE_SHARE = 0.8
"""A thread that computes without the lock never stopped; one that waits may just have got what it waited for."""

# Where the interpreter looks whether it is to give up the lock, besides calls: no wait can happen there.
if sys.version_info >= (3, 12):
    _LOOP_NAMES = ("RESUME", "JUMP_BACKWARD")
elif sys.version_info >= (3, 11):
    _LOOP_NAMES = (
        "RESUME",
        "JUMP_BACKWARD",
        "POP_JUMP_BACKWARD_IF_TRUE",
        "POP_JUMP_BACKWARD_IF_FALSE",
        "POP_JUMP_BACKWARD_IF_NONE",
        "POP_JUMP_BACKWARD_IF_NOT_NONE",
        "COMPARE_OP",  # Runs together with the jump that follows.
    )
else:
    _LOOP_NAMES = ("JUMP_ABSOLUTE", "POP_JUMP_IF_FALSE", "POP_JUMP_IF_TRUE")

# After a call the interpreter looks as well, and inside of it a thread can wait.
_CALL_NAMES = (
    ("CALL_FUNCTION", "CALL_METHOD", "CALL_FUNCTION_KW", "CALL_FUNCTION_EX")
    if sys.version_info < (3, 11)
    else ("CALL", "PRECALL", "CALL_KW", "CALL_FUNCTION_EX")
)


def _numbers(names: tuple[str, ...]) -> frozenset[int]:
    return frozenset(opcode.opmap[name] for name in names if name in opcode.opmap)


_LOOPS = _numbers(_LOOP_NAMES)
_CALLS = _numbers(_CALL_NAMES)


def classify(code: CodeType, offset: int, computing_share: float, *, lock_was_free: bool, contended: bool) -> int:
    """Class a sample.

    Args:
        code: Code object of the innermost frame.
        offset: Offset of its current instruction, in bytes; negative before the first one.
        computing_share: Share of the time since the last sample in which the thread computed, 0 to 1.
        lock_was_free: Whether the sampler got the interpreter lock without waiting: then no thread held it.
        contended: Whether other threads of the process compete for the lock.

    Returns:
        ``COMPUTING``, ``WAITING`` or ``UNCLEAR``.
    """
    instruction = _bytecode(code)[offset] if offset >= 0 else -1
    if not lock_was_free and (instruction in _LOOPS or instruction < 0):
        return COMPUTING
    if computing_share >= NEARLY_ALL:
        return COMPUTING
    if computing_share <= 1 - NEARLY_ALL:
        return WAITING
    if lock_was_free:
        return UNCLEAR
    # A thread that has to queue for the lock does not go on at once, so a second look would tell nothing.
    return UNCLEAR if instruction in _CALLS and not contended else WAITING


def by_second_look(advanced_ns: int, elapsed_ns: int, *, lock_was_free: bool) -> int:
    """Class a sample by the CPU time that its thread used in the moment after it.

    Args:
        advanced_ns: How far the thread's CPU clock went on.
        elapsed_ns: Time between the two looks.
        lock_was_free: As of the first look.
    """
    share = FREE_SHARE if lock_was_free else FORCED_SHARE
    return COMPUTING if advanced_ns >= share * elapsed_ns else WAITING


@lru_cache(maxsize=512)
def _bytecode(code: CodeType) -> bytes:
    # On 3.11+ every access to co_code makes a new copy.
    return code.co_code
