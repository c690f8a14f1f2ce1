"""The grids of the benchmark: which policies are trained on what, and how each is scored."""

from lerobot.configs import NormalizationMode

from .cells import STEPS, Grid, Policy

__all__ = ["GRIDS"]

# LeRobot's `diffusion` leaves the environment state in pixels, which cripples it: all policies get it in [-1, 1].
LOW_DIMENSIONAL = dict.fromkeys(("STATE", "ENV", "ACTION"), NormalizationMode.MIN_MAX)
NORMALIZED = {"normalization_mapping": {"VISUAL": NormalizationMode.MEAN_STD, **LOW_DIMENSIONAL}}
OWN = NORMALIZED | {
    "backbone": "unet", "vision_stages": 4, "ema_decay": 0.999, "sampling_temperature": 1.0, "smoothing": 0,
    "warm_start": 0.0, "max_contraction_factor": None, "do_mask_loss_for_padding": False,
}  # fmt: skip


def cdp(
    prediction: str,
    weight: float = 0.0,
    timesteps: tuple = (0.0, 1.0),
    late: bool = False,
    loss: str = "hinge",
    every: int = 10,
    **more,
) -> Policy:
    """`cdp`, called by what it predicts and how it is penalised; `more` are settings, and `name` is put first."""
    where = {(0.0, 1.0): "", HIGH_NOISE: "high noise", LOW_NOISE: "low noise"}[timesteps] if weight else ""
    which = "Jacobian loss" if loss == "jacobian" else ""
    names = (more.pop("name", ""), prediction, which, f"γ = {weight:g}", where, "late" if late else "")
    penalty = {"weight": weight, "loss": loss, "timestep_range": timesteps, "start": 0, "every": every}
    settings = {"prediction_type": prediction, "contraction": penalty} | more
    if prediction != "velocity":
        settings = {"timestep_spacing": "trailing"} | settings
    return Policy(", ".join(filter(None, names)), "cdp", OWN | settings, late)


HIGH_NOISE, LOW_NOISE = (0.7, 1.0), (0.0, 0.1)
EPSILON, SAMPLE, VELOCITY = cdp("epsilon"), cdp("sample"), cdp("velocity")
SKIP = cdp("velocity", name="input skip", input_skip=True)
# With as few steps as these have, a late penalty is computed on every second one.
LATE_EPSILON = cdp("epsilon", 0.03, HIGH_NOISE, late=True, every=2)
LATE_VELOCITY = cdp("velocity", 0.1, late=True, every=2)
ACT_NORMALIZED = dict.fromkeys(("VISUAL", "STATE", "ENV", "ACTION"), NormalizationMode.MEAN_STD)
# As large as the U-Nets below; its learning rate of 1e-5 is for many more steps.
ACT_SIZE = {"dim_model": 128, "n_heads": 4, "dim_feedforward": 1216, "n_encoder_layers": 3, "n_vae_encoder_layers": 2}
ACT = Policy("act", "act", ACT_SIZE | {"optimizer_lr": 3e-4, "normalization_mapping": ACT_NORMALIZED})

CANDIDATES = [SKIP, VELOCITY, EPSILON, SAMPLE, ACT]
BASIC = [EPSILON, LATE_EPSILON, VELOCITY, LATE_VELOCITY]
ON_GPU = [SKIP, EPSILON, SAMPLE, VELOCITY, cdp("epsilon", 0.03, HIGH_NOISE, late=True), cdp("velocity", 0.1)]

# 2.3 M parameters: a step with 64 samples takes about 0.15 s on one CPU thread. LeRobot's learning rate of 1e-4 is for
# 100,000 steps.
SMALL = {"down_dims": [64, 128, 128], "optimizer_lr": 1e-3}
LONG = {"down_dims": [96, 192, 192], "optimizer_lr": 5e-4, "scheduler_warmup_steps": 300}
# Chunks of 1.6 s, 0.8 s and 0.64 s. The last frames of an arm's demonstration let go of the cube: none is dropped.
PUSHT = {"horizon": 16, "n_action_steps": 8, "drop_n_last_frames": 7}
SO101 = {"horizon": 8, "n_action_steps": 2, "drop_n_last_frames": 0}
ALOHA = {"horizon": 32, "n_action_steps": 16, "drop_n_last_frames": 0}
# The image encoder of the Diffusion Policy paper.
CAMERA = {"pretrained_backbone_weights": None, "use_group_norm": True, "crop_shape": (84, 84)}
# For a CPU: a fifth of its cost. One picture instead of two, 64 x 64 of 72 x 72, and half of the ResNet.
SMALL_CAMERA = {
    "pretrained_backbone_weights": None, "use_group_norm": True, "resize_shape": (72, 72), "crop_ratio": 0.89,
    "n_obs_steps": 1,
}  # fmt: skip
HALF_RESNET = [
    cdp("velocity", name="input skip", input_skip=True, vision_stages=2),
    cdp("epsilon", vision_stages=2),
]
LONG_ENOUGH = {
    "steps": 10_000, "curve": (1000, 2000, 4000, 7000), "evaluations": (2, 3, 10),
    "steps_laid": STEPS[1:], "starts": 100, "first_start": 300_000,
}  # fmt: skip

# Networks of about the size of the U-Net above, which trains three times as long.
MLP = {"name": "mlp", "backbone": "mlp", "hidden_dim": 512, "num_layers": 3}
DIT = {"name": "dit", "backbone": "dit", "hidden_dim": 192, "num_layers": 2}
BACKBONES = [cdp(prediction, **network) for network in (MLP, DIT) for prediction in ("velocity", "sample")]

GRIDS = {
    # 10,000 steps: 15 minutes on a CPU core for a policy of PushT.
    "pusht": Grid(
        "pusht_keypoints", {206: CANDIDATES, 52: CANDIDATES}, shared=SMALL | PUSHT, **LONG_ENOUGH,
    ),
    "so101": Grid("so101_pick_place", {75: CANDIDATES}, shared=SMALL | SO101, **LONG_ENOUGH),
    "aloha": Grid("aloha_transfer_cube", {100: CANDIDATES, 25: CANDIDATES}, shared=SMALL | ALOHA, **LONG_ENOUGH),
    # For a GPU. docs/benchmark.md has these policies, and some more.
    "pusht_long": Grid(
        "pusht_keypoints",
        {206: ON_GPU, 52: ON_GPU},
        steps=9636, shared=LONG | PUSHT, evaluations=(2, 3, 5, 10), batch_size=128, starts=100, first_start=200_000,
    ),
    # 45 minutes on a CPU core for a policy.
    "pusht_camera": Grid(
        "pusht_camera", {206: HALF_RESNET},
        steps=6000, shared=SMALL | PUSHT | SMALL_CAMERA, evaluations=(3, 10), steps_laid=("calibrated",),
        precision="bf16", seeds=1, starts=100, first_start=300_000,
    ),
    # For a GPU, with two jobs: the whole encoder, two pictures, twice as many samples, a larger U-Net.
    # An epoch has 24,208 samples, 178 batches of 136.
    "pusht_camera_gpu": Grid(
        "pusht_camera", {206: [SKIP, EPSILON]},
        steps=8000, shared=LONG | PUSHT | CAMERA, evaluations=(3, 10), steps_laid=("calibrated",), batch_size=136,
        precision="bf16", compiled=True, seeds=1, first_start=300_000,
    ),
    # To be compared with the U-Nets of `pusht`.
    "pusht_backbones": Grid(
        "pusht_keypoints", {206: BACKBONES}, shared={"optimizer_lr": 1e-3} | PUSHT, seeds=1,
        **LONG_ENOUGH | {"steps_laid": ("calibrated",)},
    ),
    # Twenty minutes on two CPU cores.
    "quick": Grid(
        "pusht_keypoints", {52: BASIC}, steps=1000, shared=SMALL | PUSHT, evaluations=(3, 10), seeds=1
    ),
}  # fmt: skip
