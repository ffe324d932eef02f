import pytest
import torch
import torch.distributed as dist
from conftest import MODEL, TRAIN
from torch import nn

from ms_core.model import MobileSpeechModel
from ms_core.training.optimisers import Muon, optimisers


def test_muon_steps_are_orthogonal_and_as_long_as_those_of_adamw(codec) -> None:
    model = MobileSpeechModel(MODEL, codec.config, codec.codebooks())
    kinds = optimisers(model, TRAIN.model_copy(update={"muon": True, "lr": 0.1, "weight_decay": 0.0}))
    taken = {kind: {id(p) for g in o.param_groups for p in g["params"]} for kind, o in kinds.items()}
    assert taken["adamw"] | taken["muon"] == {id(p) for p in model.parameters() if p.requires_grad}
    assert not taken["adamw"] & taken["muon"]
    assert id(model.smd.blocks[0].attention.query.weight) in taken["muon"]
    assert id(model.smd.embedding.weight) in taken["adamw"]
    weight = model.smd.blocks[0].second[1].weight  # (wide, narrow)
    weight.grad, before = torch.randn_like(weight), weight.detach().clone()
    kinds["muon"].step()
    step = (before - weight.detach()) / 0.1
    assert 0.1 < step.square().mean().sqrt() < 0.3  # AdamW's is .2, about
    values = torch.linalg.svdvals(step)
    assert values.max() < 2.5 * values.min()
    assert optimisers(model, TRAIN).keys() == {"adamw"}


def test_muon_steps_are_torch_s_own_and_a_broken_gradient_changes_nothing() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((64, 32), (32, 64), (64, 32), (48, 48))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    muon = Muon(ours, 0.01, 0.1)
    reference = torch.optim.Muon(theirs, 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        muon.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=2e-3)  # products in bf16, in another order
    before = [p.detach().clone() for p in ours]
    momenta = [muon.state[p]["momentum_buffer"].clone() for p in ours]
    ours[0].grad[0, 0] = torch.nan
    muon.found_inf = torch.ones(())
    muon.step()
    for p, weight, momentum in zip(ours, before, momenta, strict=True):
        assert torch.equal(p, weight) and torch.equal(muon.state[p]["momentum_buffer"], momentum)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_processes_share_the_work_of_muon(count: int, monkeypatch) -> None:
    torch.manual_seed(0)
    muon = Muon([nn.Parameter(torch.zeros(4, 4))], 0.01, 0.1)
    x = torch.randn(count, 32, 64).bfloat16()
    alone = muon._shared(x)
    assert alone.shape == x.shape
    parts = {}
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(dist, "all_gather", lambda _, own, rank=rank: parts.update({rank: own.clone()}))
        muon._shared(x)
    assert len(parts[0]) == len(parts[1]) == -(-count // 2)  # half of the work each
    monkeypatch.setattr(dist, "all_gather", lambda out, _: [o.copy_(parts[i]) for i, o in enumerate(out)])
    assert torch.allclose(muon._shared(x).float(), alone.float(), atol=2e-2)
