"""Settings of the Contractive Diffusion Policy: those of LeRobot's `diffusion`, and the contraction's own."""

from dataclasses import dataclass, field

from draccus.utils import ParsingError
from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.rtc import RTCConfig

from ..contraction.losses import LOSSES
from ..contraction.points import POINTS
from ..contraction.products import JACOBIAN_PRODUCTS
from ..contraction.rate_control import BASE_WEIGHT
from .schema import RETIRED, SCHEMA_VERSION, SchemaVersion, retired_settings

__all__ = ["CDPConfig", "SettingError"]

# The solvers of the process that a prediction type belongs to; the first one is the default.
VP_SOLVERS, FLOW_SOLVERS = ("DDIM", "DPMSolver++", "UniPC", "DDPM"), ("FlowMatchEuler",)
SOLVERS = {"epsilon": VP_SOLVERS, "sample": VP_SOLVERS, "v_prediction": VP_SOLVERS, "velocity": FLOW_SOLVERS}
# Settings that only one choice uses: with any other they must keep their defaults.
BACKBONE_SETTINGS = {
    "unet": ("down_dims", "kernel_size", "n_groups", "use_film_scale_modulation", "gradient_checkpointing"),
    "mlp": ("mlp_hidden_dim", "mlp_num_blocks"),
    "dit": ("dit_hidden_dim", "dit_num_heads", "dit_num_layers", "dit_patch_size"),
}
# Where the penalty acts when that is not given. Diffusion expands next to noise, where a good denoiser hardly depends
# on x_t; further down it must, to choose between action modes. Flow matching expands in few places, if at all.
NEXT_TO_NOISE, EVERYWHERE = (0.7, 1.0), (0.0, 1.0)
VP_SETTINGS = ("beta_schedule", "beta_start", "beta_end", "timestep_spacing")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PAIRS = ("contraction_timestep_range", "crop_shape", "resize_shape")
AUTO = "auto"


class SettingError(ParsingError):
    """A setting is not what it must be.

    Not a ValueError: of those, draccus tells a user at the command line only that the config "couldn't" be made.
    """


@PreTrainedConfig.register_subclass("cdp")
@dataclass
class CDPConfig(retired_settings(RETIRED), DiffusionConfig):
    """Configuration of `CDPPolicy`.

    All settings of LeRobot's `DiffusionConfig` hold, with the same meaning; those of its noise schedule with any
    prediction type but `velocity`. Those below are new, or have another default.

    Args:
        normalization_mapping: As LeRobot's, and `ENV` (`observation.environment_state`) to [-1, 1] as well. LeRobot's
            diffusion feeds it to the network in its raw unit, pixels for PushT.
        drop_n_last_frames: Frames at the end of each episode that start no training sample. Computed as
            horizon − n_action_steps − n_obs_steps + 1 when not given, once: a checkpoint keeps its number.
        backbone: Network: `unet` (LeRobot's), `mlp` (residual, over the flattened chunk) or `dit` (diffusion
            transformer); see `backbones`. Settings of the others must be left alone.
        mlp_hidden_dim: Width of the MLP.
        mlp_num_blocks: Its residual blocks.
        dit_hidden_dim: Width of a token of the transformer; a multiple of `dit_num_heads`.
        dit_num_heads: Its attention heads.
        dit_num_layers: Its blocks.
        dit_patch_size: Actions that share a token of it; `horizon` must be a multiple. More are quicker.
        vision_stages: Stages, 1 to 4, of the ResNet that encodes images. After k of them the spatial softmax finds
            places on a map of 1 / 2^(k + 1) of the picture's sides: with pictures of about 100 pixels 2 or 3 are
            finer, and quicker, than all four (LeRobot's).
        freeze_vision_encoder: Whether the ResNet that encodes images is left as it was loaded; what comes after it,
            spatial softmax and a linear layer, is trained in any case.
        prediction_type: What the network predicts: `sample` (default), `epsilon`, LeRobot's, or `v_prediction`, of a
            variance-preserving process, or `velocity`, of flow matching (see `process`; docs/benchmark.md compares).
        noise_scheduler_type: Solver at inference: with `velocity` `FlowMatchEuler`; else `DDIM` (default),
            `DPMSolver++`, `UniPC` (all deterministic) or `DDPM`.
        num_inference_steps: Network evaluations per action chunk.
        sampling_temperature: Standard deviation, in (0, 1], of the noise that a chunk is sampled from; training has 1.
            Below 1 actions agree more and jerk less, and vary less.
        smoothing: Passes, >= 0, of a moving average over each sampled chunk (see `smoothing`); 0: none. At 30 Hz a few
            take out what no hand does.
        timestep_spacing: Where the solver's steps lie, as diffusers names it: `leading`, `trailing`, `linspace`. With
            `trailing` the first step is at the noise that sampling starts from; `leading`, LeRobot's, starts late.
        contraction_weight: Weight γ >= 0 of the contraction penalty. 0 is plain diffusion, or plain flow matching:
            nothing is computed. `auto` sets it during training, by the two numbers below (see
            `contraction.rate_control`).
        contraction_target: For `auto`: share, in (0, 1), of the samples that are to contract.
        contraction_diversity: For `auto`: least spread, in [0, 1), of the sampled chunks, in units of that of the data.
            Contraction gives way to it: a policy must keep its action modes.
        contraction_loss: What is penalised: `hinge` (the expansion rate beyond the margin), `jacobian` (the paper's),
            `mean_eigenvalue` or `frobenius` (see `contraction.losses`).
        contraction_points: Where: on the `data`, on `perturbed` or `mixed` observations, or on states of the `sampler`
            (see `contraction.points`).
        contraction_margin: Contraction asked for, in [0, 1), as a fraction of the fastest there is; 0 asks that
            sampling does not expand.
        contraction_timestep_range: (low, high), 0 <= low < high <= 1: timesteps that the penalty acts on, as shares
            of all, from the data (0) to noise (1). When not given: (0.7, 1), with `velocity` all of them.
        contraction_batch_share: Share, in (0, 1], of each batch that the penalty is computed on (at least one).
        contraction_start: Updates, >= 0, before the penalty sets in; 0: at once. An `epsilon` network that has learned
            nothing yet expands everywhere. Checkpoints keep the count of updates: a fine-tuning goes on with it.
        contraction_every: The penalty is computed on every k-th step, k >= 1, with its weight times k.
        contraction_products: Jacobian products, >= 1, spent on each estimate of the largest eigenvalue.
        contraction_product: How a Jacobian product is formed: `finite_difference` (forward passes only, works with
            compiled and fused kernels) or `autodiff`.
        monitor_contraction: Sample a twin of every chunk from a start close by, at twice the batch; the policy's
            `contraction_factor` tells how much closer the two ended.
        max_contraction_factor: With a larger factor, > 0, a chunk is not executed: `select_action` holds the last
            action for the length of a chunk, which is a hold for absolute actions only. None: every chunk is executed.
            With a warm start the factor counts from the level at which sampling begins.
        warm_start: Share, in [0, 1), of the noise timesteps at which sampling begins where actions of the last chunk
            are left: with noise on them instead of at noise alone (see `warm_start`). 0: never.
        rtc_config: LeRobot's settings of real-time chunking (see `real_time`); its rollout fills them in.
        use_ema: Act with an exponential moving average of the weights.
        ema_decay: Largest decay, in [0, 1), of that average.
        ema_power: After n updates the decay is 1 − (1 + n)^−ema_power, until it reaches `ema_decay`; > 0.
        action_feature_names: Names of the action dimensions; LeRobot fills it from the dataset.
        resize_shape: (H, W) that every camera is resized to; needed where cameras differ in size.
        push_to_hub: Whether LeRobot uploads the trained policy. When not given: whether `repo_id` is.
        schema_version: Of these settings, for checkpoints to stay readable (see `hub.schema`); not to be set.

    Raises:
        SettingError: naming the setting, what it must be and what it got.
    """

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.MEAN_STD,
            "STATE": NormalizationMode.MIN_MAX,
            "ENV": NormalizationMode.MIN_MAX,
            "ACTION": NormalizationMode.MIN_MAX,
        }
    )
    drop_n_last_frames: int | None = None

    backbone: str = "unet"
    mlp_hidden_dim: int = 512
    mlp_num_blocks: int = 3
    dit_hidden_dim: int = 384
    dit_num_heads: int = 12
    dit_num_layers: int = 6
    dit_patch_size: int = 1
    vision_stages: int = 4
    freeze_vision_encoder: bool = False

    prediction_type: str = "sample"
    noise_scheduler_type: str | None = None
    num_inference_steps: int = 5
    sampling_temperature: float = 1.0
    smoothing: int = 0
    timestep_spacing: str = "trailing"

    contraction_weight: float | str = BASE_WEIGHT
    contraction_target: float = 0.9
    contraction_diversity: float = 0.8
    contraction_loss: str = "hinge"
    contraction_points: str = "data"
    contraction_margin: float = 0.0
    contraction_timestep_range: tuple[float, float] | None = None
    contraction_batch_share: float = 0.125
    contraction_start: int = 0
    contraction_every: int = 10
    contraction_products: int = 5
    contraction_product: str = "finite_difference"

    monitor_contraction: bool = False
    max_contraction_factor: float | None = None
    warm_start: float = 0.0
    rtc_config: RTCConfig | None = None

    use_ema: bool = True
    ema_decay: float = 0.999
    ema_power: float = 0.75

    action_feature_names: list[str] | None = None
    push_to_hub: bool | None = None
    schema_version: SchemaVersion = SCHEMA_VERSION

    def __post_init__(self):
        self.take_over_retired()
        if self.noise_scheduler_type is None:
            self.noise_scheduler_type = SOLVERS.get(self.prediction_type, VP_SOLVERS)[0]
        if self.contraction_timestep_range is None:
            self.contraction_timestep_range = EVERYWHERE if self.prediction_type == "velocity" else NEXT_TO_NOISE
        for name in PAIRS:  # draccus cannot save a list where None is allowed as well
            if isinstance(getattr(self, name), list):
                setattr(self, name, tuple(getattr(self, name)))
        self._check_choices()
        self._check_unused()
        self._check_ranges()
        self._check_network()
        self._check_solver()
        self._check_by_lerobot()
        if self.drop_n_last_frames is None:
            self.drop_n_last_frames = self.horizon - self.n_action_steps - self.n_obs_steps + 1
        if self.push_to_hub is None:
            self.push_to_hub = self.repo_id is not None

    def _check_by_lerobot(self) -> None:
        """LeRobot's own checks know two solvers, two predictions and a U-Net: this config passes as one of those."""
        pretended = {"noise_scheduler_type": "DDIM", "prediction_type": "epsilon"}
        if self.backbone != "unet":
            pretended["down_dims"] = ()  # any horizon
        own = {name: getattr(self, name) for name in pretended}
        self.__dict__.update(pretended)
        try:
            super().__post_init__()
        except ValueError as error:
            raise SettingError(str(error)) from error
        finally:
            self.__dict__.update(own)

    def _check_choices(self) -> None:
        choices = {
            "backbone": tuple(BACKBONE_SETTINGS),
            "prediction_type": tuple(SOLVERS),
            "timestep_spacing": TIMESTEP_SPACINGS,
            "beta_schedule": BETA_SCHEDULES,
            "contraction_product": JACOBIAN_PRODUCTS,
            "contraction_loss": tuple(LOSSES),
            "contraction_points": POINTS,
        }
        for name, allowed in choices.items():
            _require(self, name, getattr(self, name) in allowed, f"one of {list(allowed)}")
        solvers = SOLVERS[self.prediction_type]
        must_be = f"one of {list(solvers)} with prediction_type = {self.prediction_type}"
        _require(self, "noise_scheduler_type", self.noise_scheduler_type in solvers, must_be)

    def _check_unused(self) -> None:
        """Settings that the choices made leave unused must keep their defaults: who sets one expects an effect."""
        unused = {}
        for backbone, names in BACKBONE_SETTINGS.items():
            if backbone != self.backbone:
                unused |= dict.fromkeys(names, f"backbone = {self.backbone}")
        if self.prediction_type == "velocity":
            unused |= dict.fromkeys(VP_SETTINGS, "prediction_type = velocity")
        for name, choice in unused.items():
            default = type(self).__dataclass_fields__[name].default
            got = getattr(self, name)
            is_default = tuple(got) == default if isinstance(default, tuple) else got == default
            _require(self, name, is_default, f"left at {default!r} with {choice}, which does not use it")

    def _check_network(self) -> None:
        for name in (*BACKBONE_SETTINGS["mlp"], *BACKBONE_SETTINGS["dit"]):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        embed_dim, heads = self.diffusion_step_embed_dim, self.dit_num_heads
        _require(self, "diffusion_step_embed_dim", embed_dim >= 4 and embed_dim % 2 == 0, "even and at least 4")
        _require(self, "dit_hidden_dim", self.dit_hidden_dim % heads == 0, f"a multiple of dit_num_heads = {heads}")
        divides = self.horizon % self.dit_patch_size == 0
        _require(self, "dit_patch_size", divides, f"a divisor of horizon = {self.horizon}")

    def _check_solver(self) -> None:
        n_timesteps = self.num_train_timesteps
        _require(
            self,
            "num_inference_steps",
            self.num_inference_steps is not None and 1 <= self.num_inference_steps <= n_timesteps,
            f"in [1, num_train_timesteps = {n_timesteps}]",
        )
        _require(self, "sampling_temperature", 0 < self.sampling_temperature <= 1, "in (0, 1]")
        if self.noise_scheduler_type == "DDPM":  # it adds fresh noise at every step
            _require(self, "sampling_temperature", self.sampling_temperature == 1, "1.0 with DDPM")
        if self.monitor_contraction:
            _require(self, "noise_scheduler_type", self.noise_scheduler_type != "DDPM", "deterministic with a monitor")
        if self.max_contraction_factor is not None:
            _require(self, "max_contraction_factor", self.max_contraction_factor > 0, "greater than 0")
            _require(self, "monitor_contraction", self.monitor_contraction, "true with a max_contraction_factor")
        if self.clip_sample and self.noise_scheduler_type in ("DPMSolver++", "UniPC"):
            # diffusers' thresholding, their only way to clip, divides by the range.
            _require(self, "clip_sample_range", self.clip_sample_range == 1, f"1.0 with {self.noise_scheduler_type}")

    def _check_ranges(self) -> None:
        for name in (
            "n_obs_steps", "n_action_steps", "num_train_timesteps", "contraction_every", "contraction_products",
        ):  # fmt: skip
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "vision_stages", 1 <= self.vision_stages <= 4, "in [1, 4]")
        for name in ("contraction_margin", "contraction_diversity", "ema_decay", "warm_start"):
            _require(self, name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("contraction_start", "smoothing"):
            _require(self, name, getattr(self, name) >= 0, "at least 0")
        low, high = self.contraction_timestep_range
        _require(self, "contraction_timestep_range", 0 <= low < high <= 1, "(low, high) with 0 <= low < high <= 1")
        _require(self, "contraction_batch_share", 0 < self.contraction_batch_share <= 1, "in (0, 1]")
        _require(self, "contraction_target", 0 < self.contraction_target < 1, "in (0, 1)")
        weight = self.contraction_weight
        is_weight = weight == AUTO or (not isinstance(weight, str) and 0 <= weight < float("inf"))
        _require(self, "contraction_weight", is_weight, "finite and at least 0, or 'auto'")
        _require(self, "ema_power", self.ema_power > 0, "greater than 0")
        if self.contraction_product == "autodiff":
            # Neither has a forward- or double-backward.
            for name in ("compile_model", "gradient_checkpointing"):
                _require(self, name, not getattr(self, name), "false with contraction_product = autodiff")
        longest = self.horizon - self.n_obs_steps + 1
        _require(
            self,
            "n_action_steps",
            self.n_action_steps <= longest,
            f"at most horizon − n_obs_steps + 1 = {longest}",
        )

    def validate_features(self) -> None:
        """Check the features a policy is built for.

        Raises:
            ValueError: if the state or the action is missing, or the images do not fit the settings.
        """
        if self.robot_state_feature is None:
            raise ValueError(
                f"`input_features` must hold 'observation.state'. Got {sorted(self.input_features or [])}."
            )
        if self.action_feature is None:
            raise ValueError(f"`output_features` must hold 'action'. Got {sorted(self.output_features or [])}.")
        if self.freeze_vision_encoder and not self.image_features:
            raise ValueError("`freeze_vision_encoder` must be false without cameras. Got True.")
        for key, feature in self.image_features.items():
            self._check_camera(key, feature.shape)

    def _check_camera(self, key: str, shape: tuple[int, int, int]) -> None:
        """Cameras share the encoder's input size: by themselves, or resized."""
        first, reference = next(iter(self.image_features.items()))
        if shape[0] != 3:
            raise ValueError(f"`{key}` must have 3 channels (red, green, blue) first. Got {shape}.")
        if self.resize_shape is None and shape != reference.shape:
            raise ValueError(
                f"`resize_shape` must be set where cameras differ in size. Got None with {reference.shape} of "
                f"`{first}` and {shape} of `{key}`."
            )
        crop_height, crop_width = self.crop_shape or (0, 0)
        if self.resize_shape is None and (crop_height > shape[1] or crop_width > shape[2]):
            raise ValueError(f"`crop_shape` must fit into `{key}`, {shape[1:]}. Got {tuple(self.crop_shape)}.")

    @property
    def chunk_size(self) -> int:
        """Length of a predicted chunk, under the name that LeRobot's sample weighting asks for."""
        return self.horizon


def _require(config: CDPConfig, name: str, holds: bool, must_be: str) -> None:
    if not holds:
        raise SettingError(f"`{name}` must be {must_be}. Got {getattr(config, name)!r}.")
