"""What contraction costs: time, memory (`peak_memory`), and how good five Jacobian products are (`eigenvalue_error`).

`large_checkpoint` measures the memory that the Hub's way takes.
"""
