"""The animation of the README: the same starts, the same 3 network evaluations per chunk, three policies."""
