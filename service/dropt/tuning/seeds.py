"""Seeds of trials: from the seed of the search, what the trial is for, and an index.

Indexes of `shortlist` and `compare` do not name the arm: that pairs the arms, which start from the
same weights and see the same batches. No purpose can meet another's seeds.
"""

import hashlib
from typing import Literal

Purpose = Literal["search", "shortlist", "simplify", "compare"]
SEED_BITS = 53  # every JSON reader keeps such an integer


def trial_seed(search_seed: int, purpose: Purpose, index: int | str) -> int:
    """First 53 bits of SHA-256 of `<search_seed>:<purpose>:<index>`, in [0, 2^53).

    The index of a search trial is `search_index(arm, number)`, that of every other purpose the
    number of the pair, from 0; an extension goes on with the numbers.
    """
    digest = hashlib.sha256(f"{search_seed}:{purpose}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def search_index(arm: str, number: int) -> str:
    """Index of a search trial, of its arm and its number there."""
    return f"{arm}/{number}"
