"""AdamW and Muon, which step through a network together."""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ms_core.config import TrainConfig


def optimisers(network: nn.Module, config: TrainConfig) -> dict[str, torch.optim.Optimizer]:
    """AdamW, with weight decay on matrices only; with `config.muon`, the matrices of linear layers by Muon instead.

    Muon (Jordan et al. 2024) steps along the orthogonalised momentum. Its steps are scaled to the root mean square of
    AdamW's, so that one learning rate serves both (Liu et al. 2025). Our choice.
    """
    hidden = []
    if config.muon:
        linear = [m.weight for m in network.modules() if isinstance(m, nn.Linear)]
        hidden = [w for w in linear if w.requires_grad and min(w.shape) > 1]
    left = {id(w) for w in hidden}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in left]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    each = {"adamw": torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)}
    if hidden:
        each["muon"] = Muon(hidden, config.lr, config.weight_decay)
    return each


class Muon(torch.optim.Optimizer):
    """Muon as torch.optim has it (Nesterov momentum .95, five Newton-Schulz steps, scale of `match_rms_adamw`), but
    with all matrices of one shape in one batched product: a tenth of the launches. `found_inf`, where it is set to 1,
    makes a step change nothing, as in torch's fused AdamW.
    """

    MOMENTUM, STEPS, COEFFICIENTS, EPSILON = 0.95, 5, (3.4445, -4.7750, 2.0315), 1e-7

    def __init__(self, params, lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            if self.found_inf is not None and self.found_inf.device.type == "cpu" and self.found_inf > 0:
                continue
            keep = 1.0 if self.found_inf is None else 1.0 - self.found_inf
            momenta = []
            for weight in weights:
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momenta.append(state["momentum_buffer"])
            shapes: dict[torch.Size, list[int]] = {}
            for i, weight in enumerate(weights):
                shapes.setdefault(weight.shape, []).append(i)
            gradients = [weight.grad for weight in weights]
            if self.found_inf is not None and self.found_inf.device.type != "cpu":
                pairs = zip(momenta, gradients, strict=True)
                gradients = [torch.where(self.found_inf > 0, old, new) for old, new in pairs]
            torch._foreach_lerp_(momenta, gradients, 1 - self.MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, self.MOMENTUM)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"] * keep)
            for shape, members in shapes.items():
                update = self._shared(torch.stack([ahead[i] for i in members]).bfloat16())
                rate = group["lr"] * 0.2 * math.sqrt(max(shape)) * keep
                torch._foreach_sub_([weights[i] for i in members], list((update.float() * rate).unbind()))

    def _shared(self, x: Tensor) -> Tensor:
        """`_orthogonal`, of which each of several processes computes its part, since all have the same gradients."""
        world = dist.get_world_size() if dist.is_initialized() else 1
        if world == 1:
            return self._orthogonal(x)
        part = -(-len(x) // world)
        filled = torch.cat([x, x[:1].expand(part * world - len(x), -1, -1)])
        own = self._orthogonal(filled[dist.get_rank() * part :][:part]).contiguous()
        parts = [torch.empty_like(own) for _ in range(world)]
        dist.all_gather(parts, own)
        return torch.cat(parts)[: len(x)]

    def _orthogonal(self, x: Tensor) -> Tensor:
        """The nearest matrices of equal singular values, about 1, of a batch (k, m, n) in bfloat16."""
        a, b, c = self.COEFFICIENTS
        tall = x.shape[1] > x.shape[2]
        y = x.mT if tall else x
        y = y / y.norm(dim=(1, 2), keepdim=True).clamp_min(self.EPSILON)
        for _ in range(self.STEPS):
            gram = y @ y.mT
            y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
        return y.mT if tall else y
