"""The policy on a GPU: does everything run, does it agree with the CPU, what does it cost."""
