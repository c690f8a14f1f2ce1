"""Contractive Diffusion Policy: LeRobot's diffusion policy, trained so that sampling contracts.

batch ─ CDPDiffusionModel ─┬─ diffusion loss ───────────────┐
          (encoder,        └─ ContractionPenalty · γ ───────┴─ loss        forward
           backbone,
           process)
                │
                └─ EMA (moving average of the weights)                     update
                    └─ diffusers solver, n_obs_steps in, chunk out         predict_action_chunk, select_action
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from httpx import TransportError
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from lerobot.configs import PreTrainedConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.utils import populate_queues
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor, nn

from ..acting.monitor import FACTOR, check_safe, hold_unsafe
from ..acting.real_time import Prefix
from ..checkpoints.files import read_json
from ..checkpoints.folders import PROCESSORS
from ..checkpoints.weights import StoredWeights, check_download, load_complete
from ..contraction import PenaltyValue, RateControl
from ..contraction.sharding import mean_over_processes, rank
from ..diffusion.encoder import stack_cameras
from ..diffusion.picture import built_for_loading
from ..errors import explain
from ..hub.card import Facts, make_card
from ..hub.push import push_trained
from .build import make_limits
from .calibration import calibrate_in_training, observations_for, warn_of_no_level
from .checks import (
    check_actions,
    check_chunk,
    check_features,
    check_finite,
    check_observation,
    check_same_batch,
    check_units,
    is_single,
    warn_of_solver,
    with_axes,
)
from .configuration_cdp import AUTO, CDPConfig
from .consistency import Lessons, find_teacher, make_penalty
from .data_review import note_data, review_data
from .ema import EMA
from .idle_settings import idle_settings, warn_of_no_penalty
from .model import CDPDiffusionModel, Chunk
from .real_time import going_on
from .sharding import WRAP_UNITS, check_sharding
from .statistics import Statistics, check_statistics, read_statistics
from .watch import ObservationWatch, fetched, furthest

if TYPE_CHECKING:  # LeRobot's, and heavy
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.datasets import LeRobotDatasetMetadata

__all__ = ["CDPPolicy"]

HUB_OPTIONS = {"cache_dir", "force_download", "local_files_only", "proxies", "revision", "token"}
CONTRACTION_LOG = ("penalty", "expansion_rate", "contracting_share")
RANKS_APART = 1_000_003  # seeds of the penalty between two processes: more than a training has steps


class CDPPolicy(DiffusionPolicy):
    """Diffusion policy with a contraction penalty on its sampling ODE, an EMA, and few-step solvers.

    Args:
        config: its features decide what is observed and acted on.
        **kwargs: What LeRobot passes at the start of a training: `dataset_meta`, of which is said what will not be
            learned from it, and noted what the checkpoint must know (see `data_review.note_data`); `dataset_stats`, its
            statistics.

    Raises:
        ValueError: if the config is another policy's, or its features do not fit it.
    """

    config_class = CDPConfig
    name = "cdp"

    def __init__(self, config: CDPConfig, **kwargs):
        _check_type(config)
        # Not DiffusionPolicy.__init__: it would build LeRobot's model first, and ours in its place.
        PreTrainedPolicy.__init__(self, config)
        config.validate_features()
        check_sharding(config)
        # LeRobot's main branch reads the first, of the class; accelerate the second. Neither takes a name in vain.
        type(self)._fsdp_wrap_modules = self._no_split_modules = WRAP_UNITS[config.backbone]
        if kwargs.get("dataset_meta") is not None:
            review_data(config, kwargs["dataset_meta"])
            for warning in idle_settings(config):
                logging.warning(warning)
            find_teacher(config)
            note_data(config, kwargs["dataset_meta"])
        self.diffusion = CDPDiffusionModel(config)
        self.ema = EMA(self.diffusion, config.ema_decay) if config.ema_decay > 0 else None
        self.rate_control = RateControl() if config.contraction.weight == AUTO else None
        self.penalty, self.lessons = make_penalty(self.diffusion), Lessons(config)
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))
        # The latest values: LeRobot's logger wants the same keys at every step.
        self.register_buffer("contraction_log", torch.zeros(len(CONTRACTION_LOG)))
        if config.compile_model:
            self._compile(config.compile_mode)
        self._seen: dict[str, Tensor] | None = None  # the latest observations, for a calibration
        self._take_statistics(kwargs.get("dataset_stats") or {})
        self.reset()

    def _take_statistics(self, statistics: Statistics) -> None:
        """What the normalisation says of units: limits and the watch need it."""
        self.watch = ObservationWatch(self.config, statistics)
        self.limits = make_limits(self.config, statistics) if statistics else None

    def _compile(self, mode: str) -> None:
        # In place: a wrapped module would rename its weights in the checkpoint.
        for model in {self.diffusion, self.acting_model}:
            model.backbone.compile(mode=mode)

    @property
    def acting_model(self) -> CDPDiffusionModel:
        """The network that acts: the moving average where there is one."""
        return self.diffusion if self.ema is None else self.ema.module

    # ------------------------------------------------------------------ training

    def forward(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, dict[str, float]]:
        """The training loss: diffusion loss + γ · contraction penalty.

        In eval mode it is the diffusion loss of the acting network alone: how well held-out data is fitted.

        Args:
            batch: normalised `observation.*` with n_obs_steps in dim 1, `action` (B, horizon, A),
                `action_is_pad` (B, horizon). It is not changed.
            reduction: `mean`, or `none` for one loss per sample, (B,), as LeRobot's sample weighting asks.

        Returns:
            The loss and numbers to log: `diffusion_loss`; with γ > 0 also the unweighted `penalty`, `expansion_rate`
            (mean ρ) and `contracting_share` of the samples, as last computed; with γ = `auto` also
            `contraction_weight` and `diversity`.

        Raises:
            ValueError: if an input is missing, misshaped, or makes the loss NaN or infinite.
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f"`reduction` must be one of ['mean', 'none']. Got {reduction!r}.")
        batch = with_axes(batch, self.config)
        check_observation(batch, self.config, time_axis=True)
        check_actions(batch, self.config)
        if self.training:
            self._seen = observations_for(self, batch)
        batch = stack_cameras(batch, self.config, time_axis=True)
        model = self.diffusion if self.training else self.acting_model
        condition = model.encoder(batch)
        penalty, log = None, {}
        if self.config.contraction.weight != 0 and self.training:
            # Before the diffusion loss: the graph of neither is in memory while the other is computed.
            penalty = self._evaluate_penalty(batch[ACTION], condition)
            log = self._contraction_numbers()
        lesson = self.lessons.draw(model, batch, condition) if self.config.is_consistency else None
        diffusion = model.compute_loss(batch, condition, lesson)
        loss = diffusion.per_sample if reduction == "none" else diffusion.mean
        if penalty is not None:
            value, weight = penalty
            loss = loss + value.term(weight)
        check_finite(loss.mean(), batch)
        return loss, {"diffusion_loss": diffusion.mean.item()} | log

    def _evaluate_penalty(self, x_0: Tensor, condition: Tensor) -> tuple[PenaltyValue, float | Tensor] | None:
        """The penalty and its weight on every k-th step, else None."""
        step, every = int(self.n_updates), self.config.contraction.every
        since = step - self.config.contraction.start
        if since < 0 or since % every:
            return None
        # Drawn from a generator of its own: a resumed run repeats it, and γ does not change the diffusion noise.
        generator = torch.Generator(x_0.device).manual_seed(step + RANKS_APART * rank())
        value = self.penalty(self.diffusion.backbone, self.diffusion.process, x_0, condition, generator)
        share = (value.rate < 0).float().mean()
        self.contraction_log.copy_(mean_over_processes(torch.stack([value.loss, value.rate.mean(), share])))
        if self.rate_control is None:
            return value, self.config.contraction.weight * every
        weight = self.rate_control.weight
        if self.rate_control.wants_probe:
            self._probe_diversity(x_0[: len(value.rate)], condition[: len(value.rate)], generator)
        self.rate_control.update(value.rate < 0)
        return value, weight * every

    @torch.no_grad()
    def _probe_diversity(self, x_0: Tensor, condition: Tensor, generator: torch.Generator) -> None:
        """Sample two chunks for each observation and show them to the rate control."""
        noise = torch.randn((2 * len(x_0), *x_0.shape[1:]), device=x_0.device, generator=generator)
        chunks = self.diffusion.conditional_sample(condition.repeat(2, 1), noise, generator)
        self.rate_control.probe(*chunks.actions.chunk(2), x_0)

    def _contraction_numbers(self) -> dict[str, float]:
        """What is logged of contraction, the same keys at every step."""
        log = dict(zip(CONTRACTION_LOG, self.contraction_log.tolist(), strict=True))
        if self.rate_control is not None:
            log |= {"contraction_weight": self.rate_control.weight.item()}
            log |= {"diversity": self.rate_control.diversity.item()}
        return log

    def update(self) -> None:
        """LeRobot's hook after each optimizer step: move the average."""
        if self.ema is not None:
            self.ema.update_parameters(self.diffusion)
        self.n_updates += 1

    def get_optim_params(self):
        """The parameters to train: not the moving average."""
        return [p for p in self.diffusion.parameters() if p.requires_grad]

    def train(self, mode: bool = True) -> "CDPPolicy":
        """As torch does, but an adapter, which does not store them, leaves the running statistics of images alone."""
        super().train(mode)
        if self.config.use_peft:
            for module in self.diffusion.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def wrap_with_peft(self, *args, **kwargs) -> nn.Module:
        """LeRobot's; the adapter is added to the averaged weights, and has no average of its own."""
        if self.ema is not None:
            logging.info("PEFT: the adapter is added to the averaged weights, and trained without an average.")
            self.diffusion.load_state_dict(self.ema.module.state_dict())
            self.ema, self.config.ema_decay = None, 0.0
        return super().wrap_with_peft(*args, **kwargs)

    def _get_default_peft_targets(self) -> dict[str, list[str]]:
        """What adapters are added to unless `--peft.target_modules` says: the backbone's linear and 1-D conv layers."""
        layers = self.diffusion.backbone.named_modules()
        names = [name for name, layer in layers if type(layer) in (nn.Linear, nn.Conv1d)]
        return {"target_modules": [f"diffusion.backbone.{name}" for name in names]}

    # ------------------------------------------------------------------ inference

    def reset(self) -> None:
        """Forget what was observed and planned. LeRobot calls it before each episode."""
        super().reset()
        self._rest: Tensor | None = None  # (B, R, A) of the last chunk, which `select_action` will not execute
        self._last_action: Tensor | None = None  # (B, A)
        self._end: Tensor | None = None  # (B, A) the last action of the last chunk
        self.watch.reset()
        self.contraction_factor: Tensor | None = None  # (B,) of the latest chunks, where it is measured

    def drop_queued_actions(self) -> None:
        """Forget what was planned, not what was observed. LeRobot calls it where the task changes."""
        self._queues[ACTION].clear()
        self._rest = self._end = None

    def supports_rtc(self) -> bool:
        """LeRobot asks before it lets `predict_action_chunk` plan in the background (real-time chunking)."""
        return True

    def init_rtc_processor(self) -> None:
        """LeRobot's hook once its rollout has set `rtc_config`."""
        self.config.check_rtc()

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        noise: Tensor | None = None,
        inference_delay: int = 0,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
    ) -> Tensor:
        """Sample the next actions.

        Args:
            batch: normalised observations with n_obs_steps in dim 1, or a single one without a time axis: state (B, D),
                images (B, C, H, W). Of single ones the policy keeps a history, until `reset`: the last n_obs_steps
                that it was called with.
            noise: (B, horizon, A) standard normal start of the sampling ODE; drawn when not given.
            inference_delay: With real-time chunking: actions, >= 0, that will be executed before this chunk is there.
            prev_chunk_left_over: With real-time chunking: ([B,] R, A) normalised actions not executed yet, the next
                one first, which the new chunk goes on from; rows of zeros at its end are LeRobot's padding.
            execution_horizon: With real-time chunking: actions left over from this one on do not bind; the one of the
                `rtc_config` where it is not given.

        Returns:
            Normalised actions, from the current observation on: (B, n_action_steps, A), or with real-time chunking
            (an enabled `rtc_config`) all that the network predicts, (B, horizon − n_obs_steps + 1, A).

        Raises:
            ValueError: if an observation is missing or misshaped, or the actions are not finite.
            UnsafeChunkError: if sampling does not contract as `max_contraction_factor` asks, or the observation is
                beyond `max_observation`.
        """
        if is_single(batch, self.config):
            self._observe(batch)
            stacked = self._history()
        else:
            batch = with_axes(batch, self.config)
            check_observation(batch, self.config, time_axis=True)
            stacked = stack_cameras(batch, self.config, time_axis=True)
        rtc = self.config.rtc_config
        if rtc is None and prev_chunk_left_over is not None:
            raise ValueError("`prev_chunk_left_over` must be None without an `rtc_config`. Got a tensor.")
        if rtc is None or not rtc.enabled:
            chunk, length = self._sample(stacked, noise), self.config.n_action_steps
        else:
            if self._end is not None:
                check_same_batch(self._end, len(stacked[OBS_STATE]))
            delays = (inference_delay, execution_horizon)
            rest, prefix = going_on(prev_chunk_left_over, *delays, self.config, len(stacked[OBS_STATE]))
            # Without a rest the arm has executed all that was planned, if anything was.
            chunk, length = self._sample(stacked, noise, prefix, rest, self._end if rest is None else None), None
        for reason in self._alarms(chunk, stacked):
            check_safe(*reason)
        actions = chunk.actions[:, :length]
        if length is None:
            self._end = actions[:, -1]
        return actions

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """One action (B, A), normalised, from the chunk at hand or a new one.

        Args:
            batch: the current normalised observation, without a time axis: state (B, D), images (B, C, H, W).
            noise: (B, horizon, A), used where a new chunk is sampled.

        Raises:
            ValueError: if an observation is missing or misshaped, or the actions are not finite.
            UnsafeChunkError: if the first chunk does not contract as `max_contraction_factor` asks, or its observation
                is beyond `max_observation`. Any later one is not executed: the last action is held for n_action_steps,
                then another chunk is sampled.
        """
        self._observe(batch)
        if not self._queues[ACTION]:
            stacked = self._history()
            sampled = self._sample(stacked, noise, rest=self._rest, last=self._last_action)
            held = self._hold_unsafe(sampled, stacked)
            actions, rest = held.tensor_split([self.config.n_action_steps], dim=1)
            self._queues[ACTION].extend(actions.transpose(0, 1))
            # A pose that is held is no plan: a warm start from it would lean to staying there.
            self._rest = rest if held is sampled.actions and rest.shape[1] else None
        self._last_action = self._queues[ACTION].popleft()
        return self._last_action

    def _alarms(self, chunk: Chunk, stacked: dict[str, Tensor]) -> Iterator[tuple[Tensor, float, str]]:
        """What may keep chunks from being executed: values (B,), their limit, what they are."""
        if (limit := self.config.max_contraction_factor) is not None:
            yield chunk.contraction_factor, limit, FACTOR
        if (limit := self.config.max_observation) is not None:
            yield furthest(stacked, self.config), limit, "the largest normalised observation"

    def _hold_unsafe(self, chunk: Chunk, stacked: dict[str, Tensor]) -> Tensor:
        """The actions, with the last one in place of those that must not be executed."""
        actions = chunk.actions
        for reason in self._alarms(chunk, stacked):
            if self._last_action is None:
                check_safe(*reason)
            else:
                actions = hold_unsafe(actions, self._last_action, *reason)
        return actions

    def _observe(self, batch: dict[str, Tensor]) -> None:
        """Add a single observation to the history."""
        batch = with_axes(batch, self.config, time_axis=False)
        check_observation(batch, self.config, time_axis=False)
        if self._queues[OBS_STATE]:
            check_same_batch(self._queues[OBS_STATE][-1], len(batch[OBS_STATE]))
        populate_queues(self._queues, stack_cameras(batch, self.config, time_axis=False), exclude_keys=[ACTION])

    def _history(self) -> dict[str, Tensor]:
        """The last n_obs_steps observations, (B, n_obs_steps, …)."""
        return {key: torch.stack(list(queue), dim=1) for key, queue in self._queues.items() if key != ACTION}

    def _sample(
        self,
        stacked: dict[str, Tensor],
        noise: Tensor | None,
        prefix: Prefix | None = None,
        rest: Tensor | None = None,
        last: Tensor | None = None,
    ) -> Chunk:
        """A finite chunk, (B, horizon − n_obs_steps + 1, A), from the current observation on, limited as asked."""
        chunk = self.acting_model.generate_actions(stacked, noise, prefix, rest)
        measured = fetched(self.watch.measure(stacked) | {"finite": torch.isfinite(chunk.actions).all()})
        if not measured["finite"]:
            check_chunk(chunk.actions, stacked)
        self.watch.judge(measured)
        self.contraction_factor = chunk.contraction_factor
        if chunk.contraction_factor is not None:
            logging.info("Contraction factor of this chunk: %.3g.", chunk.contraction_factor.max().item())
        if self.limits is None:
            check_units(self.config)
            return chunk
        self.limits = self.limits.to(chunk.actions.device)
        executing = None if prefix is None else rest
        limited = self.limits.apply(chunk.actions, stacked[OBS_STATE][:, -1], last, executing)
        return replace(chunk, actions=limited)

    # ------------------------------------------------------------------ checkpoints and the Hub

    def _save_pretrained(self, save_directory: Path, **kwargs) -> None:
        """LeRobot's; in a training, the steps of the solver are calibrated first, and a penalty to come is named."""
        if self.training:
            warn_of_no_penalty(self)
            if kwargs.get("state_dict") is None:  # else LeRobot has gathered sharded weights
                calibrate_in_training(self, self._seen)
        super()._save_pretrained(save_directory, **kwargs)

    def push_model_to_hub(
        self,
        cfg: "TrainPipelineConfig",
        peft_model: nn.Module | None = None,
        state_dict: dict[str, Tensor] | None = None,
        dataset_meta: "LeRobotDatasetMetadata | None" = None,
    ) -> None:
        """LeRobot's hook at the end of a training: policy, processors and card in one commit."""
        if peft_model is not None:  # an adapter is LeRobot's to save
            super().push_model_to_hub(cfg, peft_model=peft_model, state_dict=state_dict, dataset_meta=dataset_meta)
        else:
            push_trained(self, cfg, dataset_meta, state_dict)

    def generate_model_card(
        self,
        dataset_repo_id: str,
        model_type: str,
        license: str | None,
        tags: list[str] | None,
        cfg: "TrainPipelineConfig | None" = None,
        dataset_meta: "LeRobotDatasetMetadata | None" = None,
    ) -> ModelCard:
        """LeRobot's hook for the card; what it passes besides `cfg` and `dataset_meta` is in the config too."""
        return make_card(Facts.of_training(self.config, cfg, dataset_meta, self.trained_share))

    @property
    def trained_share(self) -> float | None:
        """Share of contracting points when the penalty was last evaluated; None if it never was."""
        contraction = self.config.contraction
        was_evaluated = contraction.weight != 0 and self.n_updates > contraction.start
        return self.contraction_log[CONTRACTION_LOG.index("contracting_share")].item() if was_evaluated else None

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: CDPConfig | None = None, **kwargs
    ) -> "CDPPolicy":
        """LeRobot's, with what to do where the Hub is the problem.

        Raises:
            FileNotFoundError: if there is no checkpoint, or it cannot be had.
            ValueError: if its weights are not complete, or damaged, or the statistics of its processors are not what
                an arm may be moved by (see `statistics.check_statistics`).
        """
        try:
            if config is None:
                stored = {name: value for name, value in kwargs.items() if name != "strict"}
                config = PreTrainedConfig.from_pretrained(pretrained_name_or_path, **stored)
            _check_type(config)
            action_range = config.action_range  # which a training replaces by that of its data
            with built_for_loading():
                policy = super().from_pretrained(pretrained_name_or_path, config=config, **kwargs)
            # An adapter has processors of its own.
            source = config.pretrained_path if config.use_peft and config.pretrained_path else pretrained_name_or_path
            hub = {name: kwargs[name] for name in HUB_OPTIONS & kwargs.keys()}
            statistics = read_statistics(source, **hub)
            check_statistics(statistics, config, action_range)
            warn_of_no_level(config)
            if not kwargs.get("dataset_stats"):
                policy._take_statistics(statistics.get(PROCESSORS[0], {}) | statistics.get(PROCESSORS[1], {}))
            return policy
        except (HfHubHTTPError, HFValidationError, TransportError, FileNotFoundError) as error:
            source = str(pretrained_name_or_path)
            raise FileNotFoundError(f"No checkpoint at {source!r}: {explain(error, source)}.") from error

    @classmethod
    def _load_as_safetensor(cls, model: "CDPPolicy", model_file: str, map_location: str, strict: bool):
        file = Path(model_file)
        check_download(file)
        stored = read_json(file.with_name("config.json"))
        check_features(stored, model.config)
        warn_of_solver(stored, model.config)
        load_complete(model, StoredWeights(file), file)
        return model


def _check_type(config: PreTrainedConfig) -> None:
    if not isinstance(config, CDPConfig):
        raise ValueError(f"`type` of the policy config must be 'cdp'. Got {config.type!r}.")
