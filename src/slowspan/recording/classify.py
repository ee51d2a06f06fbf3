"""Was a sampled thread computing or waiting?

While the sampler looks it holds the interpreter lock, so the sampled thread is outside: it gave the lock up of its own
accord inside a call that waits (or computes in C without the lock), or it was stopped by force. Force is used at a few
instructions only, so some of them tell. At a call, four facts tell: whether the sampler had to wait for the lock,
for how long, whether the kernel has the thread ready to run, and what its CPU clock does in the moment after. Checked
on 3.10 – 3.13 against workloads that measure their own truth (``bench/truth.py``).
"""

from __future__ import annotations

import enum
import opcode
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from slowspan.recording.trace import COMPUTING, WAITING

if TYPE_CHECKING:
    from types import CodeType

UNCLEAR = -1
"""A second look at the thread's CPU clock must tell."""

LEFT = -2
"""The thread computed when the sampler woke up, and went to wait before it could be seen: where it stands now is not
where it computed, and it did not wait yet. Such a sample is left out."""

AFTER_FORCE = 0.5
"""Part of the time between two looks in which a stopped thread computes: being woken takes a moment."""

WITHOUT_LOCK = 0.8
"""Part in which one computes that runs C code without the lock: one that got what it waited for shows less."""

LATEST_LOOK_NS = 1_500_000
"""After this time a second look tells nothing: the thread can have waited and computed again."""

HARDLY = 0.1
"""Share of computing below which a thread is not taken for the one that had held the lock."""

# Where the interpreter looks whether it is to give up the lock, and where no thread can wait. It looks after calls as
# well, but inside a call a thread can wait, and stands at the same instruction.
if sys.version_info >= (3, 12):
    _CHECKS = ("RESUME", "JUMP_BACKWARD")
elif sys.version_info >= (3, 11):
    _CHECKS = (
        "RESUME",
        "JUMP_BACKWARD",
        "POP_JUMP_BACKWARD_IF_TRUE",
        "POP_JUMP_BACKWARD_IF_FALSE",
        "POP_JUMP_BACKWARD_IF_NONE",
        "POP_JUMP_BACKWARD_IF_NOT_NONE",
        "COMPARE_OP",  # Runs together with the jump that follows.
    )
else:
    _CHECKS = ("JUMP_ABSOLUTE", "POP_JUMP_IF_FALSE", "POP_JUMP_IF_TRUE", "YIELD_VALUE")

_CHECK_OPCODES = frozenset(opcode.opmap[name] for name in _CHECKS)


class Lock(enum.Enum):
    """How the sampler came by the interpreter lock when it woke up."""

    FREE = "nobody held it"
    GIVEN_UP = "somebody held it, and gave it up sooner than force is used"
    HELD = "somebody held it, and may have been stopped by force"


def stopped_by_force(code: CodeType, offset: int) -> bool:
    """Return whether a thread at this instruction can only have been stopped by force.

    Args:
        code: Code object of the innermost frame.
        offset: Offset of its current instruction, in bytes; negative before the first one.
    """
    return offset < 0 or _bytecode(code)[offset] in _CHECK_OPCODES


def by_state(lock: Lock, *, is_ready: bool, computing_share: float) -> int:
    """Class the sample of a thread that stands at a call, where it may have been stopped, or wait.

    Args:
        lock: How the sampler came by the interpreter lock.
        is_ready: Whether the thread was ready to run when the sampler let go of the lock.
        computing_share: Share of the time since the last sample in which the thread computed, 0 to 1.

    Returns:
        ``WAITING``, ``LEFT`` or ``UNCLEAR``.
    """
    if lock is Lock.FREE:
        return UNCLEAR if is_ready else WAITING
    if lock is Lock.HELD and is_ready:
        return UNCLEAR
    return LEFT if computing_share >= HARDLY else WAITING


def by_second_look(lock: Lock, *, advanced_ns: int, elapsed_ns: int, lock_was_taken: bool) -> int:
    """Class the sample of a thread that was ready, by what it did right after.

    Args:
        lock: As of the first look.
        advanced_ns: How far the thread's CPU clock went on.
        elapsed_ns: Time between the two looks.
        lock_was_taken: Whether the sampler had to wait for the lock between the two looks.

    Returns:
        ``COMPUTING``, ``WAITING`` or ``LEFT``.
    """
    share = advanced_ns / elapsed_ns
    if lock is Lock.FREE:
        # Who takes the lock had waited for something outside, and got it while the sampler looked.
        return COMPUTING if share >= WITHOUT_LOCK and not lock_was_taken else WAITING
    return COMPUTING if share >= AFTER_FORCE and elapsed_ns <= LATEST_LOOK_NS else LEFT


@lru_cache(maxsize=512)
def _bytecode(code: CodeType) -> bytes:
    # On 3.11+ every access to co_code makes a new copy.
    return code.co_code
