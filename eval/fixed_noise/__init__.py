"""Fixed noise: how much the start noise decides of an episode.

matrix      success by noise and start state, and what it says
report      the page, from the table of results
"""
