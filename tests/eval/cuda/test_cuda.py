"""The checks for a GPU, tried on the CPU: a few of each kind run, and one that fails is seen."""

from eval.cost.__main__ import Cost, CostConfig, make_batch, make_policies
from eval.cuda.__main__ import CudaConfig, main
from eval.cuda.checks import compiled_checks, quick_checks


def config(**settings) -> CudaConfig:
    return CudaConfig(device="cpu", small=True, **settings)


def test_checks_pass_where_the_cpu_is_its_own_reference(capsys):
    words = ("mlp, velocity", "full precision", "chunking, sample", "monitor", "warm", "loaded", "bfloat16")
    assert main(config(only=words)) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "ok" in line or "BAD" in line]
    assert [line[:4] for line in lines[:-1]] == ["ok  "] * len(words)
    assert lines[-1] == f"{len(words)} ok, BAD: [], left out: []"


def test_costs_are_a_table(monkeypatch, capsys):
    """Measured by eval.cost, whose policies take pictures too."""
    monkeypatch.setattr(
        "eval.cuda.__main__.measure", lambda policies, *_: {name: Cost(10**6, 2.0, 2**20, 1.0) for name in policies}
    )
    assert main(config(only=("costs, 2",))) == 0
    out = capsys.readouterr().out
    assert "2 cameras, on cpu" in out and out.count("2000.0 ms    1.00") == 3
    settings = CostConfig(batch_size=2, down_dims=(8, 16), n_cameras=1)
    assert make_policies(settings)["cdp, penalty"](make_batch(settings))[0].isfinite()


def test_a_check_that_fails_is_bad_and_time_that_is_over_is_said(monkeypatch, capsys):
    monkeypatch.setattr("eval.cuda.checks.AGREEMENT", -1.0)
    assert main(config(only=("mlp, sample",))) == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("BAD mlp, sample") and "AssertionError: CPU differs by" in line
    assert main(config(only=("mlp, sample",), minutes=0)) == 0
    assert "left out: ['mlp, sample']" in capsys.readouterr().out


def test_every_backbone_prediction_and_loss_is_there():
    names = " ".join(quick_checks("cuda") | compiled_checks("cuda"))
    for word in ("unet, epsilon", "dit, velocity", "loss hinge", "loss jacobian", "reduce-overhead", "float16"):
        assert word in names
