"""h_phi: what each form starts from, and what whitening may and may not change."""

import pytest
import torch

from lks.method.hypernetwork import Design, Features, Form, Hypernetwork, Kind


def made(
    kind: Kind = "linear",
    form: Form = "replace",
    features: Features = "plain",
    count: int = 6,
    width: int = 8,
) -> Hypernetwork:
    generator = torch.Generator().manual_seed(3)
    common = 50 * torch.randn(1, width, generator=generator)  # block states share a large common part
    keys = common + torch.randn(count, width, generator=generator) * torch.logspace(0, -1, width)
    return Hypernetwork(
        Design(kind, form, features), keys, 100 + 20 * torch.randn(count, 5, generator=generator), seed=1
    )


@pytest.mark.parametrize("kind", ["linear", "mlp", "free"])
@pytest.mark.parametrize("form", ["replace", "residual"])
def test_an_untrained_network_gives_the_anchor(kind: Kind, form: Form) -> None:
    network = made(kind, form)
    expected = network.anchor if form == "residual" or kind == "free" else network.anchor[:1].expand(6, 5)
    torch.testing.assert_close(network.table(), expected)


def test_residual_and_free_start_from_the_subjects_own_state() -> None:
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(3, 4, generator=generator)
    for kind, form in (("linear", "residual"), ("free", "replace")):
        assert torch.equal(
            Hypernetwork(Design(kind, form), torch.randn(3, 7, generator=generator), own, 0).table(), own
        )  # type: ignore[arg-type]


def test_a_linear_network_is_affine_in_its_key() -> None:
    network = made()
    with torch.no_grad():
        network.network.weight.normal_(generator=torch.Generator().manual_seed(5))
    first, second = network.features[0].clone(), network.features[1].clone()
    network.features[2] = 0.25 * first + 0.75 * second
    table = network.table() - network.anchor
    torch.testing.assert_close(table[2], 0.25 * table[0] + 0.75 * table[1], rtol=1e-4, atol=1e-4)


def test_whitened_features_are_uncorrelated_and_an_affine_image_of_the_keys() -> None:
    plain, white = made(count=40).features, made(count=40, features="whitened").features
    covariance = white.T @ white / 40
    variances = covariance.diagonal()
    assert (
        variances.max() / variances.min() < 1.5
        and plain.pow(2).mean(0).max() / plain.pow(2).mean(0).min() > 30
    )
    assert (covariance - covariance.diagonal().diag()).abs().max() < 0.2
    solution = torch.linalg.lstsq(plain, white).solution
    torch.testing.assert_close(plain @ solution, white, rtol=1e-2, atol=1e-2)
    assert float(white.pow(2).mean().sqrt()) == pytest.approx(1.0)


def test_one_edit_alone_has_a_usable_key() -> None:
    network = made(count=1, features="whitened")
    assert torch.isfinite(network.features).all() and float(network.features.abs().max()) > 0.1
    assert float(network.scale) > 0


def test_the_seed_decides_the_initial_weights_and_nothing_global() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one, other = made("mlp"), made("mlp")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_scale_of_its_own_does_not_depend_on_other_subjects_nor_on_a_few_huge_entries() -> None:
    own = torch.randn(5, 400, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 6.0)[:, None]
    own[:, 0] = 1000.0
    design = Design("free", own_scale=True)
    together = Hypernetwork(design, own, own, 0)
    torch.testing.assert_close(together.scale[:, 0], torch.arange(1.0, 6.0), rtol=0.2, atol=0.0)
    alone = Hypernetwork(design, own[2:3], own[2:3], 0)
    torch.testing.assert_close(alone.scale, together.scale[2:3])
    assert "scale" not in together.learnt()
    again = Hypernetwork(design, own[:2], own[:2], 0, together.learnt())
    torch.testing.assert_close(again.scale, together.scale[:2])
