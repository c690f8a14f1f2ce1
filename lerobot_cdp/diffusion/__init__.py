"""Diffusion and flow matching, with plain arguments.

process      noise, targets, timesteps
sampler      the solvers, all diffusers'
encoder      observations to one vector
backbones    the networks
"""
