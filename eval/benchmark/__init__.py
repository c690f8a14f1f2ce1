"""The benchmark: policies trained and scored on equal terms.

grids         which policies are trained on what, and how each is scored
cells         one policy to train, one way to score it
tasks         datasets and environments
training      train a cell with LeRobot's own parts
rollouts      score it: the same start states and noise for all
observations  that steps are calibrated on
stress        noisy observations, noisy actions
work, jobs    a cell, and cells side by side
results       a table with a row per episode
intervals     means and paired differences with their intervals
choice        the rule by which the default is chosen
report        the pages: tasks_page, long_page with its figure, steps_page with its steps_figure; markdown
"""
