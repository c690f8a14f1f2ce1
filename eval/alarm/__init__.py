"""The alarm: does a number known while the robot acts tell failure beforehand?

signals      what is measured of each chunk: contraction factor, spread, disagreement of plans, distance to the data
episodes     rollouts from usual and unusual starts, with and without noise on what is observed
auroc        how well a number tells failures from successes
report       the page, from the tables of results
"""
