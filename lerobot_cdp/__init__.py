"""Contractive Diffusion Policy for LeRobot.

    contraction    when sampling contracts, and the penalty where it does not       (torch alone)
    diffusion      forward process, solvers, observation encoder, backbones
    acting         real-time chunking, warm start, smoothing, monitor
    policy         LeRobot's policy: configuration, model, processors
    hub, checkpoints, report, arm, envs, and the commands `python -m lerobot_cdp.…`

`lerobot_policy_cdp` registers all of it with LeRobot; importing this package alone loads nothing.
"""
