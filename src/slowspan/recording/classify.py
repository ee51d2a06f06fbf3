"""Was a sampled thread computing or waiting?

The sampler holds the interpreter lock while it looks, so the sampled thread has given the lock up: of its own
accord inside a call that waits, or by force at one of the few instructions at which the interpreter looks for such
requests. Some instructions therefore tell the thread's state for sure.
"""

from __future__ import annotations

import opcode
from functools import lru_cache
from typing import TYPE_CHECKING

from slowspan.recording.trace import COMPUTING, WAITING

if TYPE_CHECKING:
    from types import CodeType

AMBIGUOUS = -1

MOSTLY = 0.95
"""Share of the time since the last sample from which on the thread is taken to be doing the same still."""

_COMPUTING_NAMES = ("RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
_COMPUTING_OPCODES = frozenset(opcode.opmap[name] for name in _COMPUTING_NAMES if name in opcode.opmap)


def by_share(computing_share: float) -> int:
    """Class a sample by what the thread did since the last one, where that was nearly one thing only."""
    if computing_share >= MOSTLY:
        return COMPUTING
    if computing_share <= 1 - MOSTLY:
        return WAITING
    return AMBIGUOUS


def by_instruction(code: CodeType, offset: int) -> int:
    """Class a sample by the instruction at which its innermost frame stands."""
    bytecode = _bytecode(code)
    if 0 <= offset < len(bytecode) and bytecode[offset] in _COMPUTING_OPCODES:
        return COMPUTING
    return AMBIGUOUS


def by_second_look(advanced_ns: int, elapsed_ns: int) -> int:
    """Class a sample by the CPU time that the thread used in the short time after it."""
    return COMPUTING if 2 * advanced_ns > elapsed_ns else WAITING


@lru_cache(maxsize=512)
def _bytecode(code: CodeType) -> bytes:
    # On 3.11+ every access to co_code makes a new copy.
    return code.co_code
