"""LSTM, GRU and transformer: shapes, masks, what a step may see, and the sites they offer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dropt.spec.inspection import Inspection
from dropt.spec.job import LOSS_OF
from dropt_trainer.inspect import inspect_model
from dropt_trainer.losses import LOSSES
from dropt_trainer.models import SEQUENCE_MODELS, build
from dropt_trainer.models.sequences import Inputs

T, D, C = 7, 3, 5
RNNS = ("lstm", "gru")


def made(name: str, *, task: str, tokens: bool = False, **args: Any) -> nn.Module:
    shape = (T,) if tokens else (T, D)
    return build(
        name, args, input_shape=shape, n_outputs=C, seed=0, task=task,
        n_tokens=C if tokens else None,
    ).double()  # fmt: skip


def vectors(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def ids(*shape: int) -> Tensor:
    return torch.randint(0, C, shape, generator=torch.Generator().manual_seed(1))


def inspected(name: str, *, task: str, x: Inputs, tokens: bool, **args: Any) -> Inspection:
    y = ids(4, T) if task == "next_token" else ids(4)
    model = made(name, task=task, tokens=tokens, **args)
    return inspect_model(model, x, y, LOSSES[LOSS_OF[task]])


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
@pytest.mark.parametrize("task", ["classification", "regression", "next_token"])
@pytest.mark.parametrize("tokens", [False, True])
def test_output_is_one_row_per_example_or_per_step(name: str, task: str, tokens: bool) -> None:
    if task == "next_token" and not tokens:
        with pytest.raises(ValueError, match=f"'{name}' tells the next token of token ids"):
            made(name, task=task)
        return
    output = made(name, task=task, tokens=tokens)(ids(4, T) if tokens else vectors(4, T, D))
    assert output.shape == ((4, T, C) if task == "next_token" else (4, C))


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_a_series_of_numbers_is_vectors_of_one_feature(name: str) -> None:
    model = build(name, {}, input_shape=(T,), n_outputs=C, seed=0).double()
    x = vectors(4, T)
    torch.testing.assert_close(model(x), model(x.unsqueeze(-1)))


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_no_step_sees_the_token_that_it_is_to_tell(name: str) -> None:
    model = made(name, task="next_token", tokens=True).eval()
    x = ids(2, T)
    later = x.clone()
    later[:, 4:] = (later[:, 4:] + 1) % C
    before, after = model(x), model(later)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(before[:, 4], after[:, 4])


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_masked_steps_change_nothing(name: str) -> None:
    """One direction: nothing flows back from the padding behind the last step."""
    model = made(name, task="classification").eval()
    x, mask = vectors(2, T, D), torch.arange(T) < torch.tensor([[3], [T]])
    padded = torch.where(mask.unsqueeze(-1), x, 1e3)
    torch.testing.assert_close(model({"x": x, "mask": mask}), model({"x": padded, "mask": mask}))


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_a_masked_sequence_is_the_short_one_and_a_full_mask_is_none(name: str) -> None:
    model = made(name, task="classification").eval()
    x = vectors(2, T, D)
    short = {"x": x, "mask": (torch.arange(T) < 3).expand(2, T)}
    torch.testing.assert_close(model(short), model(x[:, :3]))
    whole = {"x": x, "mask": torch.ones(2, T, dtype=torch.bool)}
    torch.testing.assert_close(model(whole), model(x))


def test_inputs_without_steps_are_told_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"\['mask', 'steps'\]: a tensor 'x'"):
        made("gru", task="classification")({"steps": vectors(2, T, D), "mask": ids(2, T)})


@pytest.mark.parametrize("name", RNNS)
def test_both_directions_are_read_but_not_to_tell_the_next_token(name: str) -> None:
    model = made(name, task="classification", bidirectional=True, hidden=6)
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    assert head.in_features == 12
    with pytest.raises(ValueError, match=r"bidirectional=true would read the token"):
        made(name, task="next_token", tokens=True, bidirectional=True)


def test_depth_and_width_are_what_was_asked_for() -> None:
    lstm = made("lstm", task="classification", hidden=9, layers=3)
    rnn = lstm.get_submodule("rnn")
    assert isinstance(rnn, nn.LSTM)
    assert (rnn.hidden_size, rnn.num_layers, rnn.dropout) == (9, 3, 0.0)
    encoder = made("transformer", task="classification", width=12, depth=3, heads=3)
    blocks = encoder.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    assert len(blocks) == 3


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match='"width": 32 is no multiple of heads, which is 3'):
        made("transformer", task="classification", heads=3)


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
@pytest.mark.parametrize(("shape", "n_tokens"), [((3, 4, 5), None), ((3, 4), 9)])
def test_what_is_no_sequence_is_refused(
    name: str, shape: tuple[int, ...], n_tokens: int | None
) -> None:
    with pytest.raises(ValueError, match=f"'{name}' needs sequences: .* of shape"):
        build(name, {}, input_shape=shape, n_outputs=2, seed=0, n_tokens=n_tokens)


@pytest.mark.parametrize("name", RNNS)
def test_recurrent_models_have_locked_and_inter_layer_sites(name: str) -> None:
    found = inspected(name, task="classification", x=vectors(4, T, D), tokens=False)
    sites = {site.site: (site.role, site.kinds[0], site.time_dim) for site in found.sites}
    assert sites == {
        "rnn:in": ("rnn_in", "locked", 1), "rnn:out": ("rnn_out", "locked", 1),
        "rnn:dropout": ("rnn_inter", "locked", 1), "head:in": ("head", "element", None),
    }  # fmt: skip
    assert found.output_layers == ("head",)


def test_a_mask_is_no_token() -> None:
    x: Inputs = {"x": vectors(4, T, D), "mask": torch.ones(4, T, dtype=torch.bool)}
    assert not inspected("gru", task="classification", x=x, tokens=False).findings
    of_tokens = inspected("gru", task="classification", x=ids(4, T), tokens=True).findings
    assert [one.code for one in of_tokens] == ["token-input"]


def test_a_single_layer_has_nothing_between_its_layers() -> None:
    found = inspected("gru", task="next_token", x=ids(4, T), tokens=True, layers=1)
    assert {site.site for site in found.sites} == {"embedding:out", "rnn:out"}


@pytest.mark.parametrize("task", ["classification", "next_token"])
def test_a_transformer_on_tokens_has_attention_and_embedding_sites(task: str) -> None:
    found = inspected("transformer", task=task, x=ids(4, T), tokens=True, depth=1)
    on = {site.site: site.role for site in found.sites if site.recommended}
    assert on == {
        "embedding.content:out": "embed", "blocks.0.attention:dropout": "attn_prob",
        "blocks.0.attention:out": "branch", "blocks.0.feedforward.1:out": "hidden",
        "blocks.0.feedforward:out": "branch",
        ("norm:out" if task == "next_token" else "head:in"): "head",
    }  # fmt: skip


def test_the_own_attention_is_that_of_torch() -> None:
    """With the same weights as `nn.MultiheadAttention`, causal and not."""
    block = made("transformer", task="classification", width=8, heads=2, depth=1).eval()
    own = block.get_submodule("blocks.0.attention")
    theirs = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64).eval()
    state = own.state_dict()
    theirs.load_state_dict({
        "in_proj_weight": state["in_proj.weight"], "in_proj_bias": state["in_proj.bias"],
        "out_proj.weight": state["out_proj.weight"], "out_proj.bias": state["out_proj.bias"],
    })  # fmt: skip
    x = vectors(3, T, 8)
    for allowed in (None, torch.ones(T, T, dtype=torch.bool).tril()):
        forbidden = None if allowed is None else ~allowed
        expected = theirs(x, x, x, attn_mask=forbidden, need_weights=False)[0]
        torch.testing.assert_close(own(x, allowed), expected)
