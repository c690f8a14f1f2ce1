"""The benchmark: policies trained and scored on equal terms.

grids        which policies are trained on what, and how each is scored
cells        one policy to train, one way to score it
tasks        datasets and environments
training     train a cell with LeRobot's own parts
rollouts     score it: the same start states and noise for all
stress       noisy observations, late actions, samples that err
jobs         cells side by side
results      a table with a row per episode
intervals    paired differences and their bootstrap intervals
report       the pages: long_page, tasks_page, figure, markdown
"""
