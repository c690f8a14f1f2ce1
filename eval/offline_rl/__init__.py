"""Offline reinforcement learning: EDP (Kang et al. 2023) with this project's network, sampler and penalty.

grids        which methods are trained on which data, and how each acts
tasks        environments, and the data that is made for them
record       the data: by SAC (record_sac), by OGBench's scripted oracles (record_oracle)
transitions  the data as tensors
losses       formulas: the critic's target, the value term of the actor
networks     the actor's network and solver; twin critics
learner      one training step of actor and critic
training     all steps, and going on after a kill
acting       candidates, and which of them is taken
rollouts     episodes from the same starts with the same noise
work         what is done for one cell
results      a table with a row per episode
page         docs/offline_rl.md from the table
"""
