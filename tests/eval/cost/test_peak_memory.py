"""Peak memory of known computations."""

import torch

from eval.cost.peak_memory import PeakMemory

KIB = 1024
N = 256  # float32 numbers of a KiB


def test_what_is_freed_counts_only_while_it_lives():
    with PeakMemory() as memory:
        a = torch.zeros(4 * N)
        del a
        torch.zeros(2 * N)
    assert memory.peak == 4 * KIB


def test_views_and_changes_in_place_cost_nothing():
    with PeakMemory() as memory:
        a = torch.zeros(4 * N)
        a.view(2, -1).add_(1)
        a[:N].clone()
    assert memory.peak == 5 * KIB


def test_saved_activations_and_gradients_count():
    weight = torch.ones(N, requires_grad=True)
    with PeakMemory() as memory:
        weight.exp().exp().sum().backward()  # two results kept for the backward pass, then its own
    assert 3 * KIB <= memory.peak <= 5 * KIB
