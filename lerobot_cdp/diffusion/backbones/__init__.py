"""Networks of the policy: (x_t (B, T, A), timesteps (B,), condition (B, C)) -> prediction (B, T, A).

| `backbone` | network                                     |
| ---------- | ------------------------------------------- |
| `unet`     | LeRobot's U-Net over time (Chi et al. 2023) |
| `mlp`      | residual MLP over the flattened chunk       |
| `dit`      | LeRobot's diffusion transformer             |

None of them knows the process it is trained on, nor contraction.
"""
