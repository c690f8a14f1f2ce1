"""`python -m lerobot_cdp.speed_up`: a checkpoint of `diffusion` or `cdp` that acts in one to three evaluations.

source         the checkpoint, as one of `cdp`
observations   what its error is measured at: frames of a dataset, or the range of the statistics
measure        how far few steps end from where many would
costs          what each strength costs on this machine
training       `lerobot-train` behind one bar; a killed one goes on
stages         the policy with its steps calibrated, its training, the result with its card
settings       what the command is told
"""
