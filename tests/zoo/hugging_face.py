"""Models of `transformers`, built from tiny configurations: no weights are fetched."""

from typing import Any

import torch
import transformers
from tests.zoo.case import Case, floats, layers, tokens
from torch import Tensor, nn

PROBABILITIES = "attention probabilities: the attention function receives this rate"
CONTEXT = "what the heads give to the output projection, off"
library: Any = transformers  # its configurations take more than their signatures say
SMALL: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip


class Logits(nn.Module):
    """A library model that takes inputs by name and gives its logits: what a user writes."""

    def __init__(self, body: nn.Module, **constants: object) -> None:
        super().__init__()
        self.body = body
        self.constants: dict[str, object] = constants

    def forward(self, x: Tensor | dict[str, Tensor]) -> Tensor:
        named = x if isinstance(x, dict) else {str(self.body.main_input_name): x}
        out: Tensor = self.body(**named, **self.constants).logits
        return out


def bert() -> nn.Module:
    config = library.BertConfig(**SMALL, num_labels=3, max_position_embeddings=32)
    return Logits(transformers.BertForSequenceClassification(config))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    return Logits(transformers.GPT2LMHeadModel(config), use_cache=False)


def vit() -> nn.Module:
    config = library.ViTConfig(
        **{k: v for k, v in SMALL.items() if k != "vocab_size"}, image_size=16, patch_size=4,
        num_labels=3, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    return Logits(transformers.ViTForImageClassification(config))


def t5() -> nn.Module:
    config = library.T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    return Logits(transformers.T5ForConditionalGeneration(config), use_cache=False)


def llama() -> nn.Module:
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, max_position_embeddings=32)
    return Logits(transformers.LlamaForCausalLM(config), use_cache=False)


def whisper() -> nn.Module:
    config = transformers.WhisperConfig(
        vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8,
        max_source_positions=10, max_target_positions=20, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return Logits(transformers.WhisperForConditionalGeneration(config), use_cache=False)


BRANCH = "the end of a residual branch"
ACTIVATION = "behind the activation"
PRE_NORM = "pre-norm output, off"


def t5_layer(stack: str, *, n_feed_forward: int) -> tuple[tuple[str, str, str, str], ...]:
    at = f"body.{stack}.block.{{i}}.layer"
    cross = (
        (f"{at}.1.EncDecAttention:dropout", "attn_prob", "element", PROBABILITIES),
        (f"{at}.1.EncDecAttention.o:in", "attn_context", "element", CONTEXT),
        (f"{at}.1.dropout:p", "branch", "element", BRANCH),
    )
    n = n_feed_forward
    return (
        (f"{at}.0.SelfAttention:dropout", "attn_prob", "element", PROBABILITIES),
        (f"{at}.0.SelfAttention.o:in", "attn_context", "element", CONTEXT),
        (f"{at}.0.dropout:p", "branch", "element", BRANCH),
        *(cross if n == 2 else ()),
        (f"{at}.{n}.layer_norm:out", "hidden", "element", PRE_NORM),
        (f"{at}.{n}.DenseReluDense.dropout:p", "hidden", "element", ACTIVATION),
        (f"{at}.{n}.dropout:p", "branch", "element", BRANCH),
    )


def whisper_layer(at: str, *attentions: str) -> tuple[tuple[str, str, str, str], ...]:
    return (
        *((f"{at}.{a}:dropout", "attn_prob", "element", PROBABILITIES) for a in attentions),
        *((f"{at}.{a}.out_proj:in", "attn_context", "element", CONTEXT) for a in attentions),
        (f"{at}:dropout", "branch", "element", "one attribute for all branches of the layer"),
        (f"{at}.final_layer_norm:out", "hidden", "element", PRE_NORM),
        (f"{at}:activation_dropout", "hidden", "element", ACTIVATION),
    )


BERT, H = "body.bert.encoder.layer.{i}", "body.transformer.h.{i}"
VIT, LLAMA = "body.vit.layers.{i}", "body.model.layers.{i}"
ATTENTION_MASK = torch.tensor([[1, 1, 1, 1, 1]] * 3 + [[1, 1, 1, 0, 0]])


CASES = (
    Case("BERT", bert, {"input_ids": tokens(4, 5), "attention_mask": ATTENTION_MASK},
         ("body.classifier",), (
        ("body.bert.embeddings.dropout:p", "embed", "element", "three embeddings and a norm"),
        *layers(2, (f"{BERT}.attention.self.dropout:p", "attn_prob", "element",
                    "never called: its p is read by the attention function"),
                (f"{BERT}.attention.self:out", "attn_context", "element", CONTEXT),
                (f"{BERT}.attention.output.dropout:p", "branch", "element", BRANCH),
                (f"{BERT}.intermediate.intermediate_act_fn:out", "hidden", "element", ACTIVATION),
                (f"{BERT}.output.dropout:p", "branch", "element", BRANCH)),
        ("body.bert.pooler.dense:in", "hidden", "element", "the first token, read by the pooler"),
        ("body.dropout:p", "head", "element", "read by the output layer"),
    ), exceptions={"pack": "the library asks whether a padding mask is all ones: vmap refuses"}),
    Case("GPT-2", gpt2, tokens(4, 5), ("body.lm_head",), (
        ("body.transformer.drop:p", "embed", "element", "words and positions"),
        *layers(2, (f"{H}.attn.attn_dropout:p", "attn_prob", "element", PROBABILITIES),
                (f"{H}.attn.c_proj:in", "attn_context", "element", CONTEXT),
                (f"{H}.attn.resid_dropout:p", "branch", "element", BRANCH),
                (f"{H}.ln_2:out", "hidden", "element", PRE_NORM),
                (f"{H}.mlp.act:out", "hidden", "element", ACTIVATION),
                (f"{H}.mlp.dropout:p", "branch", "element", BRANCH)),
        ("body.lm_head:in", "head", "element", "a slice of the final norm; lm_head is tied"),
    )),
    Case("ViT", vit, floats(4, 3, 16, 16), ("body.classifier",), (
        ("body.vit.embeddings.patch_embeddings.projection:in", "input", "element", "the image"),
        ("body.vit.embeddings.dropout:p", "hidden", "element", "patches and the class token"),
        *layers(2, (f"{VIT}.attention:attention_dropout", "attn_prob", "element", PROBABILITIES),
                (f"{VIT}.attention.o_proj:in", "attn_context", "element", CONTEXT),
                (f"{VIT}.dropout:p", "branch", "element", "one module for both branches"),
                (f"{VIT}.layernorm_after:out", "hidden", "element", PRE_NORM),
                (f"{VIT}.mlp.activation_fn:out", "hidden", "element", ACTIVATION)),
        ("body.classifier:in", "head", "element", "the class token of the final norm"),
    )),
    Case("T5", t5, {"input_ids": tokens(4, 5), "decoder_input_ids": tokens(4, 3)},
         ("body.lm_head",), (
        ("body.encoder.dropout:p", "embed", "element", "first the embedding, then the output"),
        *layers(2, *t5_layer("encoder", n_feed_forward=1)),
        ("body.decoder.dropout:p", "embed", "element", "first the embedding, then the output"),
        *layers(2, *t5_layer("decoder", n_feed_forward=2)),
    )),  # relative_attention_bias is added to attention scores: no site
    Case("Llama", llama, tokens(4, 5), ("body.lm_head",), (
        ("body.model.embed_tokens:out", "embed", "element", "the embedding, on the stream"),
        *layers(2, (f"{LLAMA}.self_attn:attention_dropout", "attn_prob", "element", PROBABILITIES),
                (f"{LLAMA}.self_attn.o_proj:in", "attn_context", "element", CONTEXT),
                (f"{LLAMA}.self_attn:out", "branch", "path", BRANCH),
                (f"{LLAMA}.post_attention_layernorm:out", "hidden", "element", PRE_NORM),
                (f"{LLAMA}.mlp.down_proj:in", "hidden", "element", "the gated product"),
                (f"{LLAMA}.mlp:out", "branch", "path", BRANCH)),
        ("body.lm_head:in", "head", "element", "a slice of the final norm"),
    )),
    Case("Whisper", whisper, {"input_features": floats(4, 8, 20),
                              "decoder_input_ids": tokens(4, 3)}, ("body.proj_out",), (
        ("body.model.encoder.conv1:in", "input", "element", "the spectrogram"),
        ("body.model.encoder.conv2:in", "conv", "channel", "behind a functional gelu"),
        ("body.model.encoder:dropout", "hidden", "element", "frames and positions"),
        *whisper_layer("body.model.encoder.layers.0", "self_attn"),
        ("body.model.decoder:dropout", "embed", "element", "words and positions"),
        *whisper_layer("body.model.decoder.layers.0", "self_attn", "encoder_attn"),
        ("body.model.decoder.layer_norm:out", "head", "element", "the final norm"),
    )),
)  # fmt: skip
