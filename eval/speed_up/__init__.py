"""Does `lerobot_cdp.speed_up` make trained `diffusion` checkpoints fast, and as good as before?

students    the fast copies of one trained policy, and how each is scored
stock       a policy of the benchmark as LeRobot's `diffusion` would have saved it
diversity   which sides the sampled plans take where the teacher's take two
page        docs/benchmark_speed_up.md, from the table of the results
"""
