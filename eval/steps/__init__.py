"""What two numbers leave on the table: the solver's steps laid by a warp, freely, and for each sample by itself.

    python -m eval.steps --results_dir=outputs/benchmark --datasets_dir=outputs/datasets

- `free`: steps without a formula, from a search or from the closed form of many steps.
- `oracle`: how many evaluations a sampler would need that knew the error of each sample beforehand.
- `measure`: both for one trained policy.
"""
