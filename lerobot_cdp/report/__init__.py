"""What contraction does to a trained policy, `cdp` or LeRobot's `diffusion`, measured on real observations.

__main__     `python -m lerobot_cdp.report`: numbers and a page
data         observations of a dataset, and a measured policy
plan         how much of what is measured
measures     the measurements
expansion    the expansion rate at noised demonstrations
steps        where steps cost accuracy, and where they should lie
page         the page
plots        its pictures
"""
