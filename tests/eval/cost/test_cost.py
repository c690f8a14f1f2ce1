"""The cost table has a row per policy, and its own base is 1."""

from eval.cost.__main__ import CostConfig, main


def test_table(capsys):
    main(CostConfig(batch_size=2, down_dims=(8, 16), rounds=1))
    lines = capsys.readouterr().out.splitlines()
    names = ["diffusion", "cdp, γ = 0", "cdp, penalty", "cdp, penalty, mlp", "cdp, penalty, dit"]
    assert [line.split("  ")[0].strip() for line in lines[-5:]] == names
    assert lines[-5].split()[5] == "1.00" and lines[-5].split()[-1] == "1.000"
