"""The paper's regime: one action per inference, on a tenth of the transitions. Is there a gain that is contraction's?

grids        which policies are trained on what
controls     γ = 0 with noise on its actions, as much as a penalised policy makes
report       the page, from the tables of results
"""
