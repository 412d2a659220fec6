"""BERT from its config, with a body whose weights are read from a file and stay as they are."""

from pathlib import Path

from brackets import N_STEPS, N_TOKENS
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

WEIGHTS = Path(__file__).parent / "body.safetensors"


def config() -> BertConfig:
    """Two layers of width 32; `eager` attention, whose dropout is a plain call."""
    return BertConfig(
        vocab_size=N_TOKENS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=N_STEPS, attn_implementation="eager",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


class Classifier(nn.Module):
    """A frozen body, the mean over what the mask shows, and a head that learns."""

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__()
        self.body = BertModel(config(), add_pooling_layer=False)
        self.body.load_state_dict(load_file(WEIGHTS), strict=False)
        self.body.requires_grad_(requires_grad=False)
        self.dense = nn.Linear(self.body.config.hidden_size, width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map ids and mask, [B, T] each, to logits [B, n_outputs]."""
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask[..., None].to(states.dtype)
        pooled = (states * weight).sum(1) / weight.sum(1)
        out: Tensor = self.head(self.dense(pooled).relu())
        return out


def classifier(*, n_outputs: int, width: int = 64) -> Classifier:
    """What `--model bert.py:classifier` names; initial weights of dense and head are drawn."""
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} is missing; run make_weights.py beside it first")
    return Classifier(width, n_outputs)
