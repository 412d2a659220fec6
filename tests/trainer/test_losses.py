import numpy as np
import torch

from dropt_trainer.losses import LOSSES, cross_entropy, mse, token_cross_entropy


def test_cross_entropy_is_the_negative_log_softmax_of_the_class() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2, 0, 3])
    z = logits.numpy()
    expected = np.log(np.exp(z).sum(-1)) - z[np.arange(7), labels.numpy()]
    np.testing.assert_allclose(cross_entropy(logits, labels).numpy(), expected, rtol=1e-12)


def test_mse_averages_over_outputs_alone() -> None:
    output = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    target = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    assert mse(output, target).tolist() == [2.5, 5.0]


def test_losses_of_a_pack_are_bitwise_those_of_its_trials() -> None:
    generator = torch.Generator().manual_seed(1)
    output = torch.randn(3, 5, 10, generator=generator)
    targets = {
        "cross_entropy": torch.randint(0, 10, (3, 5), generator=generator),
        "mse": torch.randn(3, 5, 10, generator=generator),
    }
    for name in targets:
        loss = LOSSES[name]
        packed = loss(output, targets[name])
        alone = [loss(output[k], targets[name][k]) for k in range(3)]
        assert packed.shape == (3, 5)
        assert torch.equal(packed, torch.stack(alone)), name


def test_loss_of_next_tokens_is_the_mean_over_steps_of_each_example() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 5, 7, 4, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 4, (3, 5, 7), generator=generator)
    loss = token_cross_entropy(logits, tokens)
    z = logits.numpy()
    each = np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, tokens.numpy()[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss.numpy(), each.mean(-1), rtol=1e-12)
    assert loss.shape == (3, 5)
    packs_of_one = [token_cross_entropy(logits[k : k + 1], tokens[k : k + 1])[0] for k in range(3)]
    assert torch.equal(loss, torch.stack(packs_of_one))
