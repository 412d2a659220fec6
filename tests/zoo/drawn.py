"""Classes of `transformers` that the code was not developed on, drawn with a fixed seed.

Population: the classes in the library's own tables for eight tasks (TASKS), without the model
types that are in the zoo already. A class counts if it builds from a tiny configuration and gives
logits for four rows of made-up inputs. Tiny: every width, depth, count of heads, vocabulary and
image side of its configuration at the value in SIZES, everything else as the library has it, and
at most MAX_PARAMETERS parameters. Drawn: the population in an order of the seed; the first that
count.

`python -m tests.zoo.drawn` draws, checks and prints; `first_run.json` is what it said first.
"""

import copy
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from tests.zoo.case import Case, floats, tokens
from tests.zoo.checks import CHECKS, look
from tests.zoo.hugging_face import Logits
from torch import nn
from transformers.models.auto import modeling_auto

from dropt_trainer.sites.trace import Inputs

SEED, N_DRAWN, MAX_PARAMETERS = 20_261_124, 20, 3_000_000
TASKS = (
    "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "CAUSAL_LM", "MASKED_LM",
    "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_CLASSIFICATION", "AUDIO_CLASSIFICATION",
    "SEMANTIC_SEGMENTATION",
)  # fmt: skip
KNOWN_TYPES = ("bert", "gpt2", "vit", "t5", "llama", "whisper")
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "dim"), 16),
    "embedding_size": 16,
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "n_inner"), 32),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"), 32),
    **dict.fromkeys(("head_dim", "d_kv", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("pad_token_id", "decoder_start_token_id"), 0),
    "bos_token_id": 1, "eos_token_id": 1, "image_size": 32, "num_labels": 3,
    "conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
    "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32],
}  # fmt: skip
FAILURES = (Exception,)  # a check may fail in any way that torch or the library knows
UNBUILDABLE = (
    ImportError, RuntimeError, TypeError, ValueError, AttributeError, LookupError,
    ArithmeticError, AssertionError, OSError, StrictDataclassError,
)  # fmt: skip


def population() -> list[str]:
    """Names of all classes of the tasks, sorted, each once."""
    tables = [getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES") for task in TASKS]
    named = {
        name
        for table in tables
        for kind, names in table.items()
        if kind not in KNOWN_TYPES
        for name in ([names] if isinstance(names, str) else names)
    }
    return sorted(named)


def build(name: str) -> nn.Module:
    """A tiny model of a class.

    Raises:
        ValueError: it has too many parameters even so; or whatever the class raises.
    """
    model_class = getattr(transformers, name)
    config = model_class.config_class(**_tiny(model_class.config_class()))
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in model_class(config).parameters())
    if n_parameters > MAX_PARAMETERS:
        raise ValueError(f"{n_parameters} parameters")
    constants = {"use_cache": False} if getattr(config, "use_cache", False) else {}
    return Logits(model_class(config), **constants)


def inputs_for(model: nn.Module) -> Inputs:
    """Four rows of made-up inputs, by the name of the model's main input."""
    body: Any = model.get_submodule("body")
    name, config = body.main_input_name, body.config
    if name == "pixel_values":
        side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        return {name: floats(4, getattr(config, "num_channels", 3), side, side)}
    if name == "input_values":
        return {name: floats(4, 400)}
    named = {name: tokens(4, 6)}
    if config.is_encoder_decoder:
        named["decoder_input_ids"] = tokens(4, 5)
    return named


def draw() -> Iterator[Case]:
    """The first classes that count, in the order of the seed."""
    names, n_drawn = population(), 0
    for index in np.random.default_rng(SEED).permutation(len(names)):
        name = names[index]
        try:
            case = case_of(name)
        except UNBUILDABLE as error:
            sys.stderr.write(f"{name} does not count: {type(error).__name__}\n")
            continue
        yield case
        n_drawn += 1
        if n_drawn == N_DRAWN:
            return


def case_of(name: str) -> Case:
    """A class as a case without expectations; raises where it does not count."""
    with torch.random.fork_rng():
        model = build(name)
    inputs = inputs_for(model)
    case = Case(name, lambda: copy.deepcopy(model), inputs, (), ())
    with torch.no_grad():
        if not case.model().eval()(inputs).isfinite().all():
            raise ValueError("its logits are not finite")
    return case


def _tiny(config: Any) -> dict[str, Any]:
    """What to change in a configuration: the fields it has, lists no longer than they were."""
    known = {*config.to_dict(), *config.attribute_map}
    return {
        name: _like(getattr(config, name, None), value)
        for name, value in SIZES.items()
        if name in known
    } | ({"layer_types": config.layer_types[:2]} if getattr(config, "layer_types", None) else {})


def _like(default: object, value: Any) -> Any:
    """A size in the form that the field has: a list of it, as long as the default, or a number."""
    if isinstance(default, list | tuple):
        values = value if isinstance(value, list) else [value] * len(default)
        return values[: len(default)]
    return default if isinstance(value, list) else value


# Drawn with SEED from transformers 5.24; the output layer is by reading each class's head.
DRAWN = {
    "ZambaForSequenceClassification": "score",
    "CamembertForCausalLM": "lm_head.decoder",
    "Data2VecTextForSequenceClassification": "classifier.out_proj",
    "RobertaForCausalLM": "lm_head.decoder",
    "SEWDForSequenceClassification": "classifier",
    "MarkupLMForSequenceClassification": "classifier",
    "FunnelForMaskedLM": "lm_head",
    "HeliumForCausalLM": "lm_head",
    "GPTNeoXJapaneseForCausalLM": "embed_out",
    "BigBirdForCausalLM": "cls.predictions.decoder",
    "SeedOssForSequenceClassification": "score",
    "Qwen2MoeForCausalLM": "lm_head",
    "MegatronBertForCausalLM": "cls.predictions.decoder",
    "GraniteMoeSWAForCausalLM": "lm_head",
    "HunYuanDenseV1ForCausalLM": "lm_head",
    "NllbMoeForConditionalGeneration": "lm_head",
    "CTRLLMHeadModel": "lm_head",
    "TapasForSequenceClassification": "classifier",
    "EsmForMaskedLM": "lm_head.decoder",
    "PvtV2ForImageClassification": "classifier",
}


def outcomes(name: str) -> dict[str, str]:
    """What each check says of a drawn class: "ok", or its first words against it."""
    case = case_of(name)
    try:
        found = look(case)
    except UNBUILDABLE as error:
        return {"discovery": _words(error)}
    said = {"output layer": "ok" if found.output_layers == (f"body.{DRAWN[name]}",) else
            f"found {list(found.output_layers)}"}  # fmt: skip
    said["sites"] = "ok" if found.sites else "none"
    for check in CHECKS.keys() - {"expected"}:
        try:
            CHECKS[check](case, found)
            said[check] = "ok"
        except FAILURES as error:
            said[check] = _words(error)
    return dict(sorted(said.items()))


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


if __name__ == "__main__":
    for drawn in draw():
        assert drawn.name in DRAWN, f"{drawn.name} was not drawn before: another library"
        said = outcomes(drawn.name)
        sys.stdout.write(json.dumps({drawn.name: said}) + "\n")
