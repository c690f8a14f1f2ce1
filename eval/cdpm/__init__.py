"""Contractive diffusion probabilistic models (Tang and Zhao 2024) out of policies that are trained already.

sampler      the contractive sub-VP process as a solver
report       the page, from the tables of results
"""
