"""What sampling on a robot asks for besides a solver.

real_time     chunks that go on from the one that is being executed
warm_start    sampling begins with the rest of the last chunk
smoothing     a moving average over each chunk
limits        the range of the demonstrations, and a largest change per step
monitor       how far two chunks end apart whose sampling began close together
"""
