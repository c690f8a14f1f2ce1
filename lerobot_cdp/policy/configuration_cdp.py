"""Settings of the Contractive Diffusion Policy: those of LeRobot's `diffusion`, and 15 of its own."""

import logging
from dataclasses import dataclass, field, fields

from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.rtc import RTCConfig
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE

from ..contraction import LOSSES
from ..contraction.rate_control import BASE_WEIGHT
from ..diffusion.picture import is_built_for_loading, map_size, most_stages, seen_size
from ..errors import SettingError, require
from .schema import SCHEMA_VERSION, SchemaVersion

__all__ = ["AUTO", "CDPConfig", "ContractionConfig"]

AUTO = "auto"
# The solvers of the process that a prediction type belongs to; the first one is the default.
VP_SOLVERS, FLOW_SOLVERS = ("DDIM", "DPMSolver++", "DDPM"), ("FlowMatchEuler",)
SOLVERS = {"epsilon": VP_SOLVERS, "sample": VP_SOLVERS, "velocity": FLOW_SOLVERS}
# Settings that only some choices use: with any other they must keep their defaults.
UNET_SETTINGS = ("down_dims", "kernel_size", "n_groups", "use_film_scale_modulation", "gradient_checkpointing")
BACKBONE_SETTINGS = {
    "unet": UNET_SETTINGS,
    "mlp": ("hidden_dim", "num_layers"),
    "dit": ("hidden_dim", "num_layers"),
}
VP_SETTINGS = ("beta_schedule", "beta_start", "beta_end", "timestep_spacing")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# Where the penalty acts when that is not given. Diffusion expands next to noise, where a good denoiser hardly depends
# on x_t; further down it must, to choose between action modes. Flow matching expands in few places, if at all.
NEXT_TO_NOISE, EVERYWHERE = (0.7, 1.0), (0.0, 1.0)
DIT_HEAD_DIM = 32


@dataclass
class ContractionConfig:
    """Settings of the contraction penalty, `--policy.contraction.…`.

    Args:
        weight: Weight γ >= 0 of the penalty. 0: no penalty is computed. `auto`: set during training (see
            `contraction.rate_control`).
        loss: What is penalised: `hinge` (the expansion rate where it is positive) or `jacobian` (the paper's loss); see
            `contraction.losses`.
        timestep_range: (low, high), 0 <= low < high <= 1: share of the timesteps with the penalty, from data (0) to
            noise (1). Default: (0.7, 1), with `velocity` (0, 1).
        start: Training updates, >= 0, before the penalty begins. An untrained `epsilon` network expands everywhere.
            Checkpoints store the count of updates, and fine-tuning continues it.
        every: The penalty is computed at every k-th update, k >= 1, with k times the weight.

    Raises:
        SettingError: naming the setting, what it must be and what it got.
    """

    weight: float | str = BASE_WEIGHT
    loss: str = "hinge"
    timestep_range: tuple[float, float] | None = None
    start: int = 0
    every: int = 10

    def __post_init__(self):
        _tuples_for_lists(self)
        weight, is_pair = self.weight, isinstance(self.timestep_range, tuple) and len(self.timestep_range) == 2
        is_weight = weight == AUTO or (isinstance(weight, int | float) and 0 <= weight < float("inf"))
        self._require("weight", is_weight, "finite and at least 0, or 'auto'")
        self._require("loss", self.loss in LOSSES, f"one of {list(LOSSES)}")
        self._require("timestep_range", self.timestep_range is None or is_pair, "a pair (low, high)")
        low, high = self.timestep_range or EVERYWHERE
        self._require("timestep_range", 0 <= low < high <= 1, "(low, high) with 0 <= low < high <= 1")
        self._require("start", self.start >= 0, "at least 0")
        self._require("every", self.every >= 1, "at least 1")

    def _require(self, name: str, holds: bool, must_be: str) -> None:
        require(holds, f"contraction.{name}", must_be, getattr(self, name))


@PreTrainedConfig.register_subclass("cdp")
@dataclass
class CDPConfig(DiffusionConfig):
    """Configuration of `CDPPolicy`.

    All settings of LeRobot's `DiffusionConfig` keep their meaning; its noise schedule does not apply to `velocity`. The
    settings below are new or have another default.

    Args:
        normalization_mapping: LeRobot's, plus `ENV` (`observation.environment_state`) to [-1, 1], which LeRobot's
            diffusion leaves in raw units (PushT: pixels).
        drop_n_last_frames: Last frames of each episode in which no training sample starts. Default: those whose
            executed actions would be padding, horizon − n_action_steps − n_obs_steps + 1, but at most LeRobot's 7, so
            that short episodes remain. A checkpoint stores the number.
        do_mask_loss_for_padding: Leave actions beyond the end of an episode out of the loss. Default: true.
        backbone: Network: `unet` (LeRobot's), `mlp` (residual, over the flattened chunk) or `dit` (LeRobot's diffusion
            transformer); see `diffusion.backbones`. Settings of the other networks must keep their defaults.
        hidden_dim: Width of `mlp` (512 when not given) or of a token of `dit` (384; a multiple of 32).
        num_layers: Residual blocks of `mlp` (3 when not given) or transformer blocks of `dit` (6).
        vision_stages: ResNet stages, 1 to 4, that encode images; LeRobot uses 4. The feature map after k stages has
            1 / 2^(k + 1) of the image's height and width. For images of about 100 pixels, 2 or 3 stages keep a finer
            map and are faster.
        prediction_type: What the network predicts: `sample` or `epsilon` (variance preserving), or `velocity` (flow
            matching). See `diffusion.process`; docs/benchmark.md compares.
        noise_scheduler_type: Solver at inference. With `velocity`: `FlowMatchEuler`. Else `DDIM` (default) or
            `DPMSolver++` (the paper's), both deterministic, or `DDPM`.
        num_inference_steps: Network evaluations per action chunk.
        timestep_spacing: Placement of the solver's steps, by diffusers' names: `leading`, `trailing`, `linspace`.
            `trailing` begins at the highest noise level; `leading`, LeRobot's, begins below it.
        sampling_temperature: Standard deviation, in (0, 1], of the start noise; training uses 1. Below 1, actions vary
            less and are smoother.
        smoothing: Passes, >= 0, of a moving average over each sampled chunk (see `acting.smoothing`); 0: none.
        warm_start: If actions of the last chunk are left, sampling starts from them with noise at this share, in
            [0, 1), of the timesteps, not from pure noise (see `acting.warm_start`). 0: off.
        max_contraction_factor: Limit, > 0, on the contraction factor of a chunk; None: not measured. The factor is the
            final distance of two chunks over their distance at the start (see `acting.monitor`); measuring it doubles
            the batch. Above the limit, `select_action` repeats the last action for the length of a chunk, which holds
            the arm only if actions are absolute. A large limit, such as 1e9, measures and logs only. With a warm start,
            the factor counts from the noise level at which sampling starts.
        ema_decay: Largest decay, in [0, 1), of the averaged weights, which act. 0: no average.
        contraction: The contraction penalty, see `ContractionConfig`.
        rtc_config: LeRobot's settings of real-time chunking (see `acting.real_time`); its rollout fills them in.
        action_feature_names: Names of the action dimensions; LeRobot fills it from the dataset.
        resize_shape: (H, W) that every camera is resized to; needed where cameras differ in size.
        push_to_hub: Whether LeRobot uploads the trained policy. Default: true if `repo_id` is given.
        schema_version: Version of these settings, so that checkpoints stay readable (see `policy.schema`). Do not set
            it.

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
    do_mask_loss_for_padding: bool = True

    backbone: str = "unet"
    hidden_dim: int | None = None
    num_layers: int | None = None
    vision_stages: int = 4

    prediction_type: str = "sample"
    noise_scheduler_type: str | None = None
    num_inference_steps: int = 5
    timestep_spacing: str = "trailing"

    sampling_temperature: float = 1.0
    smoothing: int = 0
    warm_start: float = 0.0
    max_contraction_factor: float | None = None

    ema_decay: float = 0.999
    contraction: ContractionConfig = field(default_factory=ContractionConfig)

    rtc_config: RTCConfig | None = None
    action_feature_names: list[str] | None = None
    push_to_hub: bool | None = None
    schema_version: SchemaVersion = SCHEMA_VERSION

    def __post_init__(self):
        _tuples_for_lists(self)
        if isinstance(self.contraction, dict):
            known = [own.name for own in fields(ContractionConfig)]
            self._require("contraction", self.contraction.keys() <= set(known), f"a dict with keys of {known}")
            self.contraction = ContractionConfig(**self.contraction)
        if self.noise_scheduler_type is None:
            self.noise_scheduler_type = SOLVERS.get(self.prediction_type, VP_SOLVERS)[0]
        self._check_choices()
        self._check_unused()
        self._check_ranges()
        self._check_network()
        self._check_solver()
        self._check_pictures()
        self.check_rtc()
        self._check_by_lerobot()
        if self.drop_n_last_frames is None:
            padded = self.horizon - self.n_action_steps - self.n_obs_steps + 1
            self.drop_n_last_frames = min(padded, DiffusionConfig.drop_n_last_frames)
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

    def _require(self, name: str, holds: bool, must_be: str) -> None:
        require(holds, name, must_be, getattr(self, name))

    def _check_choices(self) -> None:
        self._require("contraction", isinstance(self.contraction, ContractionConfig), "a ContractionConfig or a dict")
        choices = {
            "backbone": tuple(BACKBONE_SETTINGS),
            "prediction_type": tuple(SOLVERS),
            "timestep_spacing": TIMESTEP_SPACINGS,
            "beta_schedule": BETA_SCHEDULES,
        }
        for name, allowed in choices.items():
            self._require(name, getattr(self, name) in allowed, f"one of {list(allowed)}")
        solvers = SOLVERS[self.prediction_type]
        must_be = f"one of {list(solvers)} with prediction_type = {self.prediction_type}"
        self._require("noise_scheduler_type", self.noise_scheduler_type in solvers, must_be)

    def _check_unused(self) -> None:
        """Settings that the choices made leave unused must keep their defaults: who sets one expects an effect."""
        used = BACKBONE_SETTINGS[self.backbone]
        names = {name for settings in BACKBONE_SETTINGS.values() for name in settings if name not in used}
        unused = dict.fromkeys(sorted(names), f"backbone = {self.backbone}")
        if self.prediction_type == "velocity":
            unused |= dict.fromkeys(VP_SETTINGS, "prediction_type = velocity")
        defaults = {own.name: own.default for own in fields(self)}
        for name, choice in unused.items():
            default = defaults[name]
            is_default = getattr(self, name) == default
            self._require(name, is_default, f"left at {default!r} with {choice}, which does not use it")

    def _check_network(self) -> None:
        for name in ("hidden_dim", "num_layers"):
            self._require(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        embed_dim = self.diffusion_step_embed_dim
        self._require("diffusion_step_embed_dim", embed_dim >= 4 and embed_dim % 2 == 0, "even and at least 4")
        if self.backbone == "dit" and self.hidden_dim is not None:
            self._require("hidden_dim", self.hidden_dim % DIT_HEAD_DIM == 0, f"a multiple of {DIT_HEAD_DIM}")

    def _check_solver(self) -> None:
        steps, most = self.num_inference_steps, self.num_train_timesteps
        is_number = steps is not None and 1 <= steps <= most
        self._require("num_inference_steps", is_number, f"in [1, num_train_timesteps = {most}]")
        self._require("clip_sample_range", 0 < self.clip_sample_range < float("inf"), "greater than 0 and finite")
        self._require("sampling_temperature", 0 < self.sampling_temperature <= 1, "in (0, 1]")
        if self.max_contraction_factor is not None:
            is_limit = 0 < self.max_contraction_factor < float("inf")
            self._require("max_contraction_factor", is_limit, "greater than 0 and finite, or null")
        if self.noise_scheduler_type == "DDPM":  # it adds fresh noise at every step
            self._require("sampling_temperature", self.sampling_temperature == 1, "1.0 with DDPM")
            is_off = self.max_contraction_factor is None
            self._require("max_contraction_factor", is_off, "None with DDPM, whose noise drives two chunks apart")
        if self.clip_sample and self.noise_scheduler_type == "DPMSolver++":
            # diffusers' thresholding, its only way to clip, divides by the range.
            self._require("clip_sample_range", self.clip_sample_range == 1, "1.0 with DPMSolver++")

    def check_rtc(self) -> None:
        """LeRobot's main branch knows a second kind of real-time chunking, for networks trained with prefixes.

        Raises:
            SettingError: if it is asked for.
        """
        mode = getattr(self.rtc_config, "mode", "guided")
        require(mode == "guided", "rtc_config.mode", "'guided': `cdp` is not trained with prefixes", mode)

    def _check_pictures(self) -> None:
        default = type(self)
        is_other = self.vision_backbone != default.vision_backbone
        if is_other and self.pretrained_backbone_weights == default.pretrained_backbone_weights:  # not a user's choice
            self.pretrained_backbone_weights = f"{_title(self.vision_backbone)}_Weights.IMAGENET1K_V1"
        weights = self.pretrained_backbone_weights
        is_known = (
            weights is None or "." not in weights or weights.startswith(f"{_title(self.vision_backbone)}_Weights.")
        )
        must_be = f"null or weights of vision_backbone = {self.vision_backbone}"
        self._require("pretrained_backbone_weights", is_known, must_be)
        if self.resize_shape is None and self.crop_ratio < 1:
            logging.warning(
                "`crop_ratio` = %s has no effect without a `resize_shape`, whose share it is.", self.crop_ratio
            )

    def _check_ranges(self) -> None:
        for name in ("n_obs_steps", "n_action_steps", "num_train_timesteps"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("vision_stages", 1 <= self.vision_stages <= 4, "in [1, 4]")
        for name in ("ema_decay", "warm_start"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._require("smoothing", self.smoothing >= 0, "at least 0")
        longest = self.horizon - self.n_obs_steps + 1
        must_be = f"at most horizon − n_obs_steps + 1 = {longest}"
        self._require("n_action_steps", self.n_action_steps <= longest, must_be)

    def validate_features(self) -> None:
        """Check the features a policy is built for.

        Raises:
            ValueError: if the state or the action is missing, or the images do not fit the settings.
        """
        if self.robot_state_feature is None:
            raise ValueError(
                f"`input_features` must hold 'observation.state': rename the feature in the dataset, or join its parts "
                f"into one. Got {sorted(self.input_features or [])}."
            )
        if self.action_feature is None:
            raise ValueError(f"`output_features` must hold 'action'. Got {sorted(self.output_features or [])}.")
        for key, feature in self.image_features.items():
            self._check_camera(key, feature.shape)
        if self.image_features and not is_built_for_loading():
            self._check_encoder(next(iter(self.image_features.values())).shape[1:])

    def _check_encoder(self, picture: tuple[int, int]) -> None:
        """The ResNet must leave a map with places to tell apart, and its weights must be its own."""
        size = seen_size(picture, self.resize_shape, self.crop_shape)
        most, unit = most_stages(size), f"pictures of {size[0]} x {size[1]}"
        if self.vision_stages > most:
            rows, columns = map_size(size, self.vision_stages)
            must_be = f"at most {most} with {unit}" if most else f"used with larger pictures than {size[0]} x {size[1]}"
            raise SettingError(
                f"`vision_stages` must be {must_be}: the encoder would look for places on a map of {rows} x {columns}. "
                f"Got {self.vision_stages}."
            )
        if self.use_group_norm and self.pretrained_backbone_weights is not None:
            raise SettingError(
                "`pretrained_backbone_weights` must be null with use_group_norm = true, which would replace what they "
                f"were trained with. Got {self.pretrained_backbone_weights!r}."
            )
        seen = size[0] * size[1] / (picture[0] * picture[1])
        if self.resize_shape is None and seen < 0.5:
            logging.warning(
                "`crop_shape` = %s shows the network %.0f %% of each picture of %s x %s: set `resize_shape` and "
                "`crop_ratio` to show it all.", tuple(self.crop_shape), 100 * seen, *picture,
            )  # fmt: skip

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
    def observed_features(self) -> dict[str, PolicyFeature]:
        """The inputs that the network sees; others in a dataset are ignored."""
        vectors = (OBS_STATE, OBS_ENV_STATE)
        inputs = (self.input_features or {}).items()
        return {key: feature for key, feature in inputs if key in vectors or feature.type is FeatureType.VISUAL}

    @property
    def penalty_range(self) -> tuple[float, float]:
        """`contraction.timestep_range`, or the one of the prediction type where that is not given."""
        default = EVERYWHERE if self.prediction_type == "velocity" else NEXT_TO_NOISE
        return self.contraction.timestep_range or default

    @property
    def chunk_size(self) -> int:
        """Length of a predicted chunk, under the name that LeRobot's sample weighting asks for."""
        return self.horizon


def _title(vision_backbone: str) -> str:
    """As torchvision names the weights: resnet18 -> ResNet18."""
    return vision_backbone.replace("resnet", "ResNet")


def _tuples_for_lists(config: object) -> None:
    """draccus cannot save a list where a tuple or None is expected."""
    for own in fields(config):
        value = getattr(config, own.name)
        if isinstance(value, list) and "tuple" in str(own.type):
            setattr(config, own.name, tuple(value))
