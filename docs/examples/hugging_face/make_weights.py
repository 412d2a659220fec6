"""Train the body without labels, and write its weights: `python make_weights.py [FILE]`.

One bracket of each well-nested sequence is hidden, and BERT learns to say which it was (Devlin et
al. 2019, section 3.1). It takes a few seconds on one core; the file has 0.1 MB.
"""

import sys
from pathlib import Path

import brackets
import torch
from bert import WEIGHTS, config
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertForMaskedLM

N_STEPS, BATCH = 100, 32


def hide_one(ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids with one hidden token each, and targets that are -100 wherever nothing is hidden."""
    lengths = (ids != brackets.PAD).sum(1)
    at = (torch.rand(len(ids), generator=generator) * lengths).long()
    rows = torch.arange(len(ids))
    targets = torch.full_like(ids, -100)
    targets[rows, at] = ids[rows, at]
    hidden = ids.clone()
    hidden[rows, at] = brackets.MASKED
    return hidden, targets


def main(path: Path) -> None:
    """Train for a fixed number of steps, and save the body alone."""
    torch.set_num_threads(1)  # tensors this small only wait for a second thread
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = BertForMaskedLM(config())
    ids, closed = brackets.sequences(4000, seed=0)
    ids = ids[closed == 1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(N_STEPS):
        batch = ids[torch.randint(len(ids), (BATCH,), generator=generator)]
        hidden, targets = hide_one(batch, generator)
        logits = model(input_ids=hidden, attention_mask=(batch != brackets.PAD).long()).logits
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sys.stdout.write(f"loss {loss.item():.3f} after {N_STEPS} steps; weights in {path}\n")
    save_file(model.bert.state_dict(), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS)
