"""Sizes of observations, which settings and simulations share."""

__all__ = ["ALOHA_JOINTS", "ALOHA_PLACES", "SO101_ACTIONS", "SO101_IMAGE", "SO101_PLACES", "SO101_STATE"]

SO101_ACTIONS, SO101_STATE = 4, 14
SO101_PLACES = 12  # numbers that say where cube and goal are
SO101_IMAGE = (128, 128, 3)

ALOHA_JOINTS, ALOHA_PLACES = 14, 3  # of both arms, jaws included; where the cube is
