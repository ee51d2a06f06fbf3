"""The names of entries in stacks that are not code, but time of which something else is known."""

from __future__ import annotations

BEFORE_FIRST_SAMPLE = "[before the first sample]"
"""The time from the request's start to its first sample."""

COMPUTED_NOT_SEEN = "[computed, not seen]"
"""CPU time that the clock measured and no sample saw."""

WAITING_FOR_LOOP = "[waiting for the event loop]"
"""Time in which a task could have gone on; below it stand the frames of who held the event loop."""

NOT_SAMPLED = "[not sampled]"
"""Time in which this request's stack could not be read."""

IN_CONSUMER = "[in the consumer]"
"""Time between two items of a generator: whoever uses them had it."""

LEFT_OUT = "[frames left out]"
"""In the middle of a stack that is deeper than what is kept."""

SYNTHETIC_FRAMES = frozenset(
    {BEFORE_FIRST_SAMPLE, COMPUTED_NOT_SEEN, WAITING_FOR_LOOP, IN_CONSUMER, LEFT_OUT, NOT_SAMPLED}
)

UNKNOWN_FRAMES = frozenset({BEFORE_FIRST_SAMPLE, NOT_SAMPLED})
"""Those of which it is not known either whether the request computed or waited."""

HELD_THE_LOOP = "[held the event loop]"
"""What is said of a line that is another request's: it ran while this one waited for its turn."""
