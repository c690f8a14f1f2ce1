"""Checkpoints on the disk.

weights    loaded completely or not at all
folders    found here or on the Hub
files      written whole or not at all
"""
