"""Does `lerobot_cdp.speed_up` make trained `diffusion` checkpoints fast, and as good as before?

students    the fast copies of one trained policy, and how each is scored
stock       a policy of the benchmark as LeRobot's `diffusion` would have saved it
starts      what a policy observes first from fresh start states
diversity   which sides the sampled plans take there, where the teacher's take two
verdicts    what was asked for, and whether it is met
page        docs/benchmark_speed_up.md, from the table of the results
"""
