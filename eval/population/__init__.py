"""Another trainer for the grids of the benchmark: all `cdp` policies of one architecture at once, on one GPU.

network      M networks as one, every parameter with a leading axis
members      a policy with its own weights and optimizer, and the population that M of them make
data         the demonstrations on the device, and the order in which each member sees them
step         a training step of all members
graphs       the step as CUDA graphs
record       what is noted down, and the checkpoints
training     all steps, and going on after a kill
"""
