"""Settings of the Contractive Diffusion Policy: those of LeRobot's `diffusion`, and 24 of its own."""

import logging
from dataclasses import dataclass, field, fields, replace
from math import exp, log1p

from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.rtc import RTCConfig
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE

from ..diffusion.grid import EQUAL, Warp, most_steps, rest_from
from ..diffusion.picture import is_built_for_loading, map_size, most_stages, seen_size
from ..errors import SettingError, require
from .groups import WARM_START, ContractionConfig, StepCalibration, tuples_for_lists
from .schema import SCHEMA_VERSION, SchemaVersion, check_version, in_todays_units, warn_of_warm_start
from .values import AUTO, CDP_RULES, RTC_RULES, check_values

__all__ = ["AUTO", "SHIFTED", "CDPConfig", "ContractionConfig", "StepCalibration"]

# The solvers of the process that a prediction type belongs to; the first one is the default.
LCM = "LCM"
VP_SOLVERS, FLOW_SOLVERS = ("DDIM", "DPMSolver++", "DDPM", LCM), ("FlowMatchEuler", LCM)
SOLVERS = {"epsilon": VP_SOLVERS, "sample": VP_SOLVERS, "velocity": FLOW_SOLVERS}
# Settings that only some choices use: with any other they must keep their defaults.
UNET_SETTINGS = (
    "down_dims", "kernel_size", "n_groups", "use_film_scale_modulation", "gradient_checkpointing", "input_skip",
)  # fmt: skip
BACKBONE_SETTINGS = {
    "unet": UNET_SETTINGS,
    "mlp": ("hidden_dim", "num_layers"),
    "dit": ("hidden_dim", "num_layers"),
}
VP_SETTINGS = ("beta_schedule", "beta_start", "beta_end")
SHIFTED, EQUAL_STEPS = "shifted", "trailing"
TIMESTEP_SPACINGS = (SHIFTED, "leading", "trailing", "linspace")
# Warps whose worst loss, over trained policies of several tasks, is (nearly) the smallest: see `python -m eval.steps`.
WARPS = {"velocity": Warp(0.3, 1.0), "sample": Warp(0.6, 1.0), "epsilon": Warp(0.4, 0.8)}
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# Where the penalty acts when that is not given. Diffusion expands next to noise, where a good denoiser hardly depends
# on x_t; further down it must, to choose between action modes. Flow matching expands in few places, if at all.
NEXT_TO_NOISE, EVERYWHERE = (0.7, 1.0), (0.0, 1.0)
DIT_HEAD_DIM = 32
LEAST_BETA, LEAST_SIGNAL = 1e-6, 1e-10  # what single precision can tell from 0; the signal is that of x_t, squared


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
        input_skip: Carry x_t to a last block of `unet`, which LeRobot's does not have (see `diffusion.backbones.unet`).
            Default: true with `velocity`; false in checkpoints from before there was this setting.
        hidden_dim: Width of `mlp` (512 when not given) or of a token of `dit` (384; a multiple of 32).
        num_layers: Residual blocks of `mlp` (3 when not given) or transformer blocks of `dit` (6).
        vision_stages: ResNet stages, 1 to 4, that encode images; LeRobot uses 4. The feature map after k stages has
            1 / 2^(k + 1) of the image's height and width. For images of about 100 pixels, 2 or 3 stages keep a finer
            map and are faster.
        freeze_vision_encoder: Leave the encoder of the images as it is, and show it all pictures as at inference.
        keep_statistics: Normalise data by the statistics of the checkpoint that is trained on, not the dataset's.
        prediction_type: What the network predicts: `velocity` (flow matching, the default), `sample` or `epsilon`
            (variance preserving). See `diffusion.process`; docs/benchmark.md compares.
        noise_scheduler_type: Solver at inference. With `velocity`: `FlowMatchEuler`. Else `DDIM` (default) or
            `DPMSolver++` (the paper's), both deterministic, or `DDPM`. `LCM`, with any prediction, makes it a
            consistency policy, which is trained to end in one step (see `policy.consistency`).
        teacher: With `LCM`: the checkpoint of the diffusion policy whose ends are learned. None: it teaches itself.
            Only training reads it.
        num_inference_steps: Network evaluations per action chunk.
        timestep_spacing: How the solver's steps are laid: `shifted` (see `diffusion.grid`); `trailing`, in equal steps;
            or, but not with `velocity`, `leading` (LeRobot's) and `linspace`, as diffusers has them.
        timestep_shift: Shift, > 0, of the steps: below 1 they crowd next to the data. Default: the `calibration`, or
            what suits the prediction type.
        first_timestep: Share, in (0, 1], of the timesteps at which sampling begins. Default: likewise.
        sampling_temperature: Standard deviation, in (0, 1], of the start noise; training uses 1. Below 1, actions vary
            less.
        smoothing: Passes, >= 0, of a moving average over each sampled chunk (see `acting.smoothing`); 0: none.
        warm_start: If actions of the last chunk are left, sampling starts from them with noise of this level, a share
            in [0, 1) of the timesteps, and takes fewer steps (see `acting.warm_start`). `auto`: of the level that the
            `calibration` found to forget errors of the last chunk. 0: off.
        max_contraction_factor: Limit, > 0, on the contraction factor of a chunk; None: not measured. The factor is the
            final distance of two chunks over their distance at the start (see `acting.monitor`); measuring it doubles
            the batch. Above the limit, `select_action` repeats the last action for the length of a chunk, which holds
            the arm only if actions are absolute. A large limit, such as 1e9, measures and logs only. With a warm start,
            the factor counts from the noise level at which sampling starts.
        action_margin: Clamp each action to the range of the demonstrations, widened at both ends by this share, >= 0,
            of its width; only `max_action_step` comes after it. None: off. (`clip_sample` confines the network's
            estimate.)
        max_action_step: Largest change, > 0, of each action dimension from one step to the next, in the dataset's
            units: a number, or a dict by the names in `action_feature_names` (see `acting.limits`). None: off.
        max_observation: Largest normalised value, > 0, of an observed vector to act on. Above it, `select_action`
            repeats the last action for the length of a chunk, as with `max_contraction_factor`. None: warn only.
        ema_decay: Largest decay, in [0, 1), of the averaged weights, which act. 0: no average.
        contraction: The contraction penalty, see `ContractionConfig`.
        calibration: What training or `lerobot_cdp.speed_up` found for the two settings of the steps; those given by
            you go first.
        rtc_config: LeRobot's settings of real-time chunking (see `acting.real_time`); its rollout fills them in.
        action_feature_names: Names of the action dimensions; LeRobot fills it from the dataset.
        action_range: Lowest and highest values of the actions in the dataset, 2 lists of A; filled in by a training.
            Statistics of the normalisation that differ are refused when a checkpoint is loaded.
        action_is_position: Whether action and `observation.state` are the same quantities, so that the first action
            can be compared with where the arm is. Filled in by a training: same names, and ranges that agree.
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
    input_skip: bool | None = None
    hidden_dim: int | None = None
    num_layers: int | None = None
    vision_stages: int = 4
    freeze_vision_encoder: bool = False
    keep_statistics: bool = False

    prediction_type: str = "velocity"
    noise_scheduler_type: str | None = None
    teacher: str | None = None
    num_inference_steps: int = 3
    timestep_spacing: str = "shifted"
    timestep_shift: float | None = None
    first_timestep: float | None = None

    sampling_temperature: float = 1.0
    smoothing: int = 0
    warm_start: float | str = 0.0
    max_contraction_factor: float | None = None

    action_margin: float | None = None
    max_action_step: float | dict[str, float] | None = None
    max_observation: float | None = None

    ema_decay: float = 0.999
    contraction: ContractionConfig = field(default_factory=ContractionConfig)

    calibration: StepCalibration | None = None
    rtc_config: RTCConfig | None = None
    action_feature_names: list[str] | None = None
    action_range: list[list[float]] | None = None
    action_is_position: bool = False
    push_to_hub: bool | None = None
    schema_version: SchemaVersion = SCHEMA_VERSION

    def __post_init__(self):
        tuples_for_lists(self)
        self._make("contraction", ContractionConfig)
        self._make("calibration", StepCalibration)
        self._make("rtc_config", RTCConfig)
        check_values(self, CDP_RULES)
        if self.rtc_config is not None:
            check_values(self.rtc_config, RTC_RULES, "rtc_config.")
        self._check_choices()
        self._check_unused()
        self._check_chunk()
        self._check_network()
        self._check_process()
        self._check_solver()
        self._check_pictures()
        self.check_rtc()
        self._check_by_lerobot()
        self._convert()
        if self.drop_n_last_frames is None:
            padded = self.horizon - self.n_action_steps - self.n_obs_steps + 1
            self.drop_n_last_frames = min(padded, DiffusionConfig.drop_n_last_frames)
        if self.push_to_hub is None:
            self.push_to_hub = self.repo_id is not None

    def _make(self, name: str, class_: type) -> None:
        """Turn a dict of settings into what it describes."""
        value, known = getattr(self, name), [own.name for own in fields(class_)]
        if isinstance(value, dict):
            self._require(name, value.keys() <= set(known), f"a dict with keys of {known}")
            try:
                setattr(self, name, class_(**value))
            except (TypeError, ValueError) as error:  # of LeRobot's own checks
                raise SettingError(f"`{name}` must hold what LeRobot accepts. Got {value} ({error}).") from error

    def _convert(self) -> None:
        """Settings of an older checkpoint, in today's meaning, and a new one that depends on its age."""
        version, weight = check_version(self.schema_version), self.contraction.weight
        if version < SCHEMA_VERSION:
            chunk_shape = self.action_feature and (self.horizon, *self.action_feature.shape)
            converted = in_todays_units(weight, self.contraction.loss, version, chunk_shape)
            self.contraction = replace(self.contraction, weight=converted)
            warn_of_warm_start(self.warm_start, version)
        if self.backbone == "unet" and self.input_skip is None:
            self.input_skip = self.prediction_type == "velocity" and version == SCHEMA_VERSION
        self.schema_version = SCHEMA_VERSION  # what is written next is of today

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
        choices = {
            "backbone": tuple(BACKBONE_SETTINGS),
            "prediction_type": tuple(SOLVERS),
            "timestep_spacing": TIMESTEP_SPACINGS,
            "beta_schedule": BETA_SCHEDULES,
        }
        for name, allowed in choices.items():
            self._require(name, getattr(self, name) in allowed, f"one of {list(allowed)}")
        solvers = SOLVERS[self.prediction_type]
        if self.noise_scheduler_type is None:
            self.noise_scheduler_type = solvers[0]
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
        if self.backbone == "unet":
            is_divided = all(width % self.n_groups == 0 for width in self.down_dims)
            self._require("down_dims", is_divided, f"multiples of n_groups = {self.n_groups}")
        if self.backbone == "dit" and self.hidden_dim is not None:
            self._require("hidden_dim", self.hidden_dim % DIT_HEAD_DIM == 0, f"a multiple of {DIT_HEAD_DIM}")

    def _check_solver(self) -> None:
        steps, most = self.num_inference_steps, self.num_train_timesteps
        self._require("num_inference_steps", steps <= most, f"in [1, num_train_timesteps = {most}]")
        if self.noise_scheduler_type == "DPMSolver++" and self.timestep_spacing in ("leading", "linspace"):
            # diffusers lays one point more than there are steps: as many as timesteps would hold one of them twice.
            must_be = f"below num_train_timesteps = {most} with DPMSolver++ and timestep_spacing = "
            self._require("num_inference_steps", steps < most, must_be + self.timestep_spacing)
        if self.noise_scheduler_type == "DDPM":  # it adds fresh noise at every step
            self._require("sampling_temperature", self.sampling_temperature == 1, "1.0 with DDPM")
            is_off = self.max_contraction_factor is None
            self._require("max_contraction_factor", is_off, "None with DDPM, whose noise drives two chunks apart")
        self._check_consistency()
        self._check_steps()

    def _check_consistency(self) -> None:
        if not self.is_consistency:
            self._require("teacher", self.teacher is None, f"null without noise_scheduler_type = {LCM}")
            return
        spacing = self.timestep_spacing
        self._require("timestep_spacing", spacing == SHIFTED, f"{SHIFTED!r} with noise_scheduler_type = {LCM}")
        is_plain = self.contraction.weight == 0 or self.contraction.loss == "hinge"
        must_be = f"'hinge' with noise_scheduler_type = {LCM}"
        require(is_plain, "contraction.loss", must_be, self.contraction.loss)
        must_be = (
            f"below 1 with noise_scheduler_type = {LCM} and prediction_type = epsilon, which shows no action there"
        )
        require(not self.is_blind_at(self.warp.start), "first_timestep", must_be, self.warp.start)

    def _check_steps(self) -> None:
        """How the steps are laid."""
        spacing = self.timestep_spacing
        if spacing == SHIFTED:
            most = most_steps(self.warp, self.num_train_timesteps)
            must_be = f"at most {most}, the timesteps from first_timestep = {self.warp.start} on"
            self._require("num_inference_steps", self.num_inference_steps <= most, must_be)
            return
        for name in ("timestep_shift", "first_timestep"):
            self._require(name, getattr(self, name) is None, f"null with timestep_spacing = {spacing}")
        if self.prediction_type == "velocity":
            must_be = f"one of {[SHIFTED, EQUAL_STEPS]} with prediction_type = velocity"
            self._require("timestep_spacing", spacing == EQUAL_STEPS, must_be)

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
        if self.resize_shape is not None and self.crop_shape is not None:  # LeRobot would replace it
            share = tuple(int(side * self.crop_ratio) for side in self.resize_shape)
            must_be = "null with a resize_shape and crop_ratio = 1"
            if self.crop_ratio < 1:
                must_be = f"null or {share}, crop_ratio = {self.crop_ratio} of resize_shape = {self.resize_shape}"
            self._require("crop_shape", self.crop_ratio < 1 and self.crop_shape == share, must_be)

    def _check_chunk(self) -> None:
        must_be = f"at most horizon − n_obs_steps + 1 = {self.longest_plan}"
        self._require("n_action_steps", self.n_action_steps <= self.longest_plan, must_be)

    def _check_process(self) -> None:
        """The noise levels of LeRobot's two schedules that `beta_start` and `beta_end` describe."""
        if not self.uses_betas:
            return
        self._require("beta_start", LEAST_BETA <= self.beta_start < 1, f"in [{LEAST_BETA}, 1)")  # less is rounded off
        self._require("beta_end", self.beta_start <= self.beta_end < 1, f"in [beta_start = {self.beta_start}, 1)")
        root = 2 if self.beta_schedule == "scaled_linear" else 1
        low, high = self.beta_start ** (1 / root), self.beta_end ** (1 / root)
        shares = [i / max(1, self.num_train_timesteps - 1) for i in range(self.num_train_timesteps)]
        signal = exp(sum(log1p(-((low + (high - low) * share) ** root)) for share in shares))
        must_be = f"smaller: no signal is left after {self.num_train_timesteps} num_train_timesteps"
        self._require("beta_end", signal >= LEAST_SIGNAL, must_be)

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
    def default_warp(self) -> Warp:
        """How the steps of a policy are laid that was not calibrated."""
        return WARPS[self.prediction_type]

    def is_blind_at(self, start: float) -> bool:
        """Whether x_t is nothing but noise at this share of the timesteps, and noise is all that is predicted."""
        is_last = round(start * self.num_train_timesteps) == self.num_train_timesteps
        return is_last and self.prediction_type == "epsilon" and not self.uses_betas

    @property
    def found_warp(self) -> Warp:
        """The calibrated warp, or the default one."""
        found = self.calibration
        return Warp(found.timestep_shift, found.first_timestep) if found else self.default_warp

    @property
    def warp(self) -> Warp | None:
        """How the solver's steps are laid; None: by diffusers' `timestep_spacing`."""
        if self.timestep_spacing != SHIFTED:
            return None
        found = self.found_warp
        least = self.num_inference_steps / self.num_train_timesteps  # a start that nobody set gives way to many steps
        start = self.first_timestep or min(1.0, max(found.start, least))
        return Warp(self.timestep_shift or found.shift, start)

    @property
    def warm_warp(self) -> Warp | None:
        """How the steps of a warm start are laid, from its level on; None: there is none."""
        return self._warm_rest()[0] if self.warm_start != 0 else None

    @property
    def warm_steps(self) -> int:
        """Network evaluations of a chunk with a warm start."""
        return self._warm_rest()[1]

    def _warm_rest(self) -> tuple[Warp, int]:
        level = self.warm_start
        if level == AUTO:
            level = self.calibration.warm_start if self.calibration else WARM_START
        return rest_from(level, self.num_inference_steps, self.warp or EQUAL, self.num_train_timesteps)

    @property
    def is_consistency(self) -> bool:
        """Whether the network is a consistency model."""
        return self.noise_scheduler_type == LCM

    @property
    def penalty_range(self) -> tuple[float, float]:
        """`contraction.timestep_range`, or the one of the prediction type where that is not given."""
        default = EVERYWHERE if self.prediction_type == "velocity" else NEXT_TO_NOISE
        return self.contraction.timestep_range or default

    @property
    def longest_plan(self) -> int:
        """Actions of a chunk from the current observation on."""
        return self.horizon - self.n_obs_steps + 1

    @property
    def uses_betas(self) -> bool:
        """Whether `beta_start` and `beta_end` say how noise grows."""
        return self.prediction_type != "velocity" and self.beta_schedule != "squaredcos_cap_v2"

    @property
    def chunk_size(self) -> int:
        """Length of a predicted chunk, under the name that LeRobot's sample weighting asks for."""
        return self.horizon


def _title(vision_backbone: str) -> str:
    """As torchvision names the weights: resnet18 -> ResNet18."""
    return vision_backbone.replace("resnet", "ResNet")
