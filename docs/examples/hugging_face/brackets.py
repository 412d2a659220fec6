"""Is this sequence of brackets closed? A small text-like data set with attention masks.

Half of the sequences are well nested; in the other half one bracket was turned into another. The
lengths differ, so each row is padded and its mask says how far it goes.
"""

import torch
from torch import Tensor

PAD, MASKED, OPENING, CLOSING = 0, 1, (2, 4, 6), (3, 5, 7)  # ids of tokens
N_TOKENS, N_STEPS = 8, 24


def nested(n_pairs: int, generator: torch.Generator) -> list[int]:
    """A well-nested sequence of so many pairs of brackets of three kinds."""
    ids: list[int] = []
    stack: list[int] = []
    for step in range(2 * n_pairs):
        n_left = 2 * n_pairs - step
        may_open = len(stack) < n_left
        opens = may_open and (not stack or bool(torch.rand((), generator=generator) < 0.5))
        if opens:
            stack.append(int(torch.randint(3, (), generator=generator)))
            ids.append(OPENING[stack[-1]])
        else:
            ids.append(CLOSING[stack.pop()])
    return ids


def spoilt(ids: list[int], generator: torch.Generator) -> list[int]:
    """The same with one closing bracket turned into one of another kind."""
    closing = [at for at, token in enumerate(ids) if token in CLOSING]
    at = closing[int(torch.randint(len(closing), (), generator=generator))]
    others = [token for token in CLOSING if token != ids[at]]
    return [*ids[:at], others[int(torch.randint(2, (), generator=generator))], *ids[at + 1 :]]


def padded(ids: list[int]) -> list[int]:
    """Filled up to `N_STEPS`."""
    return ids + [PAD] * (N_STEPS - len(ids))


def sequences(n_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Token ids [n_rows, N_STEPS] and whether each row is closed [n_rows]."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for row in range(n_rows):
        n_pairs = int(torch.randint(2, N_STEPS // 2 + 1, (), generator=generator))
        ids = nested(n_pairs, generator)
        rows.append(padded(ids if row % 2 else spoilt(ids, generator)))
    return torch.tensor(rows), torch.arange(n_rows) % 2


def data() -> dict[str, object]:
    """What `--dataset brackets.py:data` names: two tensors by the names that BERT gives them."""
    ids, closed = sequences(800, seed=1)
    mask = (ids != PAD).long()
    return {
        "x": {"input_ids": ids, "attention_mask": mask},
        "y": closed,
        "class_names": ["broken", "closed"],
        "source": "drawn at random by brackets.py",
    }
