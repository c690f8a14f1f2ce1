"""Trained policies that come with a clone, and the command that made them.

pusht_keypoints    the best policy of the benchmark's `pusht` grid, for acting only
"""
