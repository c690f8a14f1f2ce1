"""The moving average follows its formula, and is nothing that is trained."""

import copy

import torch
from torch import nn

from lerobot_cdp.policy.ema import EMA


def moved(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))


def test_average_follows_its_recurrence_also_after_a_resume():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(model, max_decay=0.8)
    expected = {k: v.detach().clone() for k, v in model.named_parameters()}
    for n in range(30):
        moved(model)
        model(torch.randn(4, 3))
        if n == 5:  # the decay is then still growing
            resumed = EMA(copy.deepcopy(model), max_decay=0.8)
            resumed.load_state_dict(ema.state_dict())
            ema = resumed
        ema.update_parameters(model)
        decay = min(0.8, 1 - (1 + n) ** -0.75)
        expected = {k: decay * expected[k] + (1 - decay) * v.detach() for k, v in model.named_parameters()}
    for name, value in ema.module.named_parameters():
        torch.testing.assert_close(value, expected[name])
    torch.testing.assert_close(ema.module[1].running_mean, model[1].running_mean)


def test_the_first_update_forgets_the_initial_weights():
    model = nn.Linear(2, 2)
    ema = EMA(model, max_decay=0.999)
    moved(model)
    ema.update_parameters(model)
    torch.testing.assert_close(ema.module.weight, model.weight)


def test_the_average_is_neither_trained_nor_in_train_mode():
    ema = EMA(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), 0.9).train()
    assert not any(p.requires_grad for p in ema.parameters())
    assert not ema.module[1].training
