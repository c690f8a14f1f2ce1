"""An attack on the package: wrong settings, damaged checkpoints, threads, garbage on ports, kills.

What is tried must be refused in one line, or do no harm: no wrong action, no code run, nothing half-written in use.
"""
