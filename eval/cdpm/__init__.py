"""Contractive diffusion probabilistic models (Tang and Zhao 2024) out of policies that are trained already.

sampler      the contractive sub-VP process as a solver
table        a table of the results, as the terminal and a page show it
"""
