"""What contraction does to a trained policy, `cdp` or LeRobot's `diffusion`, measured on real observations.

observations ── measure_policy ──┬─ protocol: how much of what ── measures, expansion: the numbers
                                 └─ plots
"""
