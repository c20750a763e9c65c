"""Adam for tables whose rows are trained independently."""

import copy

import torch

from lks.method.row_adam import RowAdam


def test_a_row_in_every_step_is_trained_as_by_adam() -> None:
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    optimisers = [RowAdam([ours], lr=0.1), torch.optim.Adam([theirs], lr=0.1)]
    for step in range(20):
        for table, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            ((table - step % 3).square() * torch.arange(1.0, 5.0)).sum().backward()
            optimiser.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_the_steps_of_others() -> None:
    """Its own steps give the same, whatever happens in between; and no other row moves."""
    tables = [torch.ones(3, 4, requires_grad=True) for _ in range(2)]
    for table, between in zip(tables, (0, 5), strict=True):
        optimiser = RowAdam([table], lr=0.1)
        for _ in range(4):
            for row in [0, *[1] * between]:
                optimiser.zero_grad()
                table[row].pow(3).sum().backward()
                optimiser.step()
    alone, among = (table.detach() for table in tables)
    assert torch.equal(alone[0], among[0]) and (alone[0] < 1).all()
    assert torch.equal(alone[1:], torch.ones(2, 4)) and torch.equal(among[2], torch.ones(4))


def test_its_state_is_saved_and_restored() -> None:
    table = torch.ones(2, 3, requires_grad=True)
    optimiser = RowAdam([table], lr=0.1)
    table[0].sum().backward()
    optimiser.step()
    copied = table.detach().clone().requires_grad_()
    again = RowAdam([copied], lr=0.1)
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for one, which in ((table, optimiser), (copied, again)):
        which.zero_grad()
        one[0].square().sum().backward()
        which.step()
    assert torch.equal(table, copied)
