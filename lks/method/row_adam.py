"""Adam for tables whose rows are trained independently of each other."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class RowAdam(Optimizer):
    """Adam (arXiv 1412.6980) that updates only the rows that have a gradient, each with its own step count.

    In Adam itself a row that is rarely in a batch keeps moving between its batches, and its second moment,
    averaged with zeros, makes its steps larger the more batches there are. `torch.optim.SparseAdam` leaves
    other rows alone but corrects the moments' bias by one step count for all rows.

    Args:
        params: tensors [rows, d].
        lr: step size.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every row whose gradient is not zero; no closure is taken."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, table.grad, group)

    def _update(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update the rows of one table [rows, d]."""
        state = self.state[table]
        if not state:
            state["count"] = torch.zeros(len(table), 1, device=table.device)
            state["mean"], state["square"] = torch.zeros_like(table), torch.zeros_like(table)
        rows = (gradient != 0).any(1).nonzero().flatten()
        found = gradient[rows]
        first, second = group["betas"]
        count = state["count"][rows] + 1
        mean = state["mean"][rows].lerp(found, 1 - first)
        square = state["square"][rows].lerp(found.square(), 1 - second)
        state["count"][rows], state["mean"][rows], state["square"][rows] = count, mean, square
        root = (square / (1 - second**count)).sqrt() + group["eps"]
        table[rows] -= group["lr"] * (mean / (1 - first**count)) / root
