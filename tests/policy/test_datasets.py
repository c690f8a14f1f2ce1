"""Datasets as people have them: each trains and acts, or is refused or remarked on in one line.

Every dataset is made here: a point walks to a goal.
"""

import copy
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from torch.utils.data import default_collate

from lerobot_cdp.diffusion.picture import built_for_loading
from lerobot_cdp.errors import SettingError
from lerobot_cdp.export import averaged_only
from lerobot_cdp.policy.configuration_cdp import CDPConfig
from lerobot_cdp.policy.data_review import note_data, review_data
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors
from tests.conftest import feature, make_batch, make_config, make_observation

SMALL = {"device": "cpu", "down_dims": (16, 32), "horizon": 16, "n_action_steps": 8}
SCRATCH = {"pretrained_backbone_weights": None, "use_group_norm": True}


@pytest.fixture
def make_dataset(tmp_path):
    """Makes a dataset: sizes of its vectors, pictures (H, W), an edit of each frame, tasks, lengths of the episodes."""

    def make(sizes, pictures=None, edit=None, tasks=("go",), lengths=(20, 20, 20)):
        features = {key: {"dtype": "float32", "shape": (n,), "names": [f"{key[-1]}{i}" for i in range(n)]}
                    for key, n in sizes.items()}  # fmt: skip
        for key, size in (pictures or {}).items():
            names = ["height", "width", "channels"]
            features[key] = {"dtype": "image", "shape": (*size, 3), "names": names}
        dataset = LeRobotDataset.create("local/own", 10, features, root=tmp_path / "own", use_videos=False)
        rng = np.random.default_rng(0)
        for episode, length in enumerate(lengths):
            for t in range(length):
                frame = {key: rng.uniform(-1, 1, n).astype(np.float32) for key, n in sizes.items()}
                frame |= {key: rng.integers(0, 256, (*size, 3), np.uint8) for key, size in (pictures or {}).items()}
                if edit:
                    edit(frame, episode, t)
                dataset.add_frame(frame | {"task": tasks[episode % len(tasks)]})
            dataset.save_episode()
        dataset.finalize()
        return dataset

    return make


def train_and_act(dataset, **settings):
    """A step of training on the dataset's own samples, as LeRobot takes it, then an action from one observation."""
    config = CDPConfig(**SMALL | settings)
    policy = make_policy(config, ds_meta=dataset.meta).train()
    preprocessor, postprocessor = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    timestamps = resolve_delta_timestamps(config, dataset.meta)
    windows = LeRobotDataset("local/own", root=dataset.root, delta_timestamps=timestamps)
    loss, _ = policy(preprocessor(default_collate([windows[i] for i in (0, 8, 16)])))
    loss.backward()
    policy.update()
    observation = {key: value for key, value in LeRobotDataset("local/own", root=dataset.root)[3].items()
                   if key.startswith("observation")}  # fmt: skip
    action = postprocessor(policy.eval().select_action(preprocessor(observation)))
    assert torch.isfinite(loss) and torch.isfinite(action).all()
    assert action.shape == (1, dataset.meta.features["action"]["shape"][0])
    return policy


STATE, ENV, ACTION = "observation.state", "observation.environment_state", "action"


@pytest.mark.parametrize("single", [STATE, ENV, ACTION])
def test_features_of_one_number(make_dataset, single):
    train_and_act(make_dataset({STATE: 3, ENV: 3, ACTION: 3} | {single: 1}))


def test_a_feature_of_one_number_is_learned_from(make_dataset):
    """Its axis is restored where it was: the loss is that of the same numbers with their axis."""
    config = make_config(output_features={"action": feature("ACTION", 1)})
    policy = CDPPolicy(config).train()
    batch = make_batch(config)
    losses = []
    for action in (batch["action"], batch["action"].squeeze(-1)):
        torch.manual_seed(0)
        losses.append(policy(batch | {"action": action})[0].item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("n_obs_steps", [1, 2])
def test_a_state_of_one_number_is_told_apart_from_a_stack_of_them(n_obs_steps):
    policy = CDPPolicy(make_config(input_features={STATE: feature("STATE", 1)}, n_obs_steps=n_obs_steps)).eval()
    states, noise = torch.randn(3, n_obs_steps, 1), torch.randn(3, 16, 2)
    expected = policy.predict_action_chunk({STATE: states}, noise=noise)
    assert torch.equal(policy.predict_action_chunk({STATE: states.squeeze(-1)}, noise=noise), expected)
    for single in (lambda state: state, lambda state: state.squeeze(-1)):  # one after the other, as a robot gives them
        policy.reset()
        chunks = [policy.predict_action_chunk({STATE: single(states[:, t])}, noise=noise) for t in range(n_obs_steps)]
        assert torch.equal(chunks[-1], expected)


# ------------------------------------------------------------------ pictures


def test_an_encoder_that_has_learned_nothing_is_not_frozen():
    meta = SimpleNamespace(features={}, tasks=None, stats={})
    frozen = make_config(images=True, freeze_vision_encoder=True)
    with pytest.raises(SettingError, match="^`freeze_vision_encoder` must be false without a checkpoint .* Got True.$"):
        review_data(frozen, meta)
    with built_for_loading():
        review_data(frozen, meta)
    weights = {"pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1", "use_group_norm": False}
    for settings in ({"freeze_vision_encoder": False}, {"images": False}, weights):
        review_data(make_config(**{"images": True, "freeze_vision_encoder": True} | settings), meta)


def statistics(config, low: float) -> dict:
    """Of a dataset whose vectors lie in [low, low + 1], and whose pictures have the mean `low`."""
    features = config.input_features | config.output_features
    pictures = {key: {"mean": np.full((3, 1, 1), low), "std": np.ones((3, 1, 1))} for key in config.image_features}
    vectors = {key: {"min": np.full(ft.shape, low), "max": np.full(ft.shape, low + 1)} for key, ft in features.items()}
    return vectors | pictures


@pytest.mark.parametrize("untrained", ["teacher", "freeze_vision_encoder", "keep_statistics", None])
def test_what_is_not_trained_sees_data_as_it_has_learned_to(untrained, tmp_path):
    """LeRobot normalises by the statistics of the dataset at hand, also where a checkpoint is trained on."""
    before = make_config(images=True)
    for part in (CDPPolicy(before), *make_pre_post_processors(before, dataset_stats=statistics(before, 3.0))):
        part.save_pretrained(tmp_path)
    settings = {"teacher": str(tmp_path), "noise_scheduler_type": "LCM"} if untrained == "teacher" else {}
    settings |= {untrained: True} if untrained in ("freeze_vision_encoder", "keep_statistics") else {}
    config = make_config(images=True, pretrained_path=tmp_path, **settings)
    meta = SimpleNamespace(stats=statistics(config, 0.0), features={ACTION: {"shape": (2,)}, STATE: {"shape": (3,)}})
    note_data(config, meta)
    kept = {"teacher": (3, 3), "keep_statistics": (3, 3), "freeze_vision_encoder": (3, 0), None: (0, 0)}
    picture, vector = kept[untrained]
    assert all((meta.stats[key]["mean"] == picture).all() for key in config.image_features)
    assert (meta.stats[STATE]["min"] == vector).all() and config.action_range == [[vector] * 2, [vector + 1] * 2]


@pytest.mark.parametrize("keeps", ["teacher", "keep_statistics"])
def test_a_joint_that_never_moved_is_seen_as_the_checkpoint_has_seen_it(keeps, tmp_path):
    """LeRobot's `diffusion` has it at -1, where its range is 0; a new `cdp` leaves it unscaled."""
    before = make_config(timestep_spacing="leading")
    stats = statistics(before, 3.0)
    stats[STATE] = {"min": np.array([5.0, 0, 0]), "max": np.array([5.0, 1, 1])}
    for part in (CDPPolicy(before), *make_diffusion_pre_post_processors(before, dataset_stats=stats)):
        part.save_pretrained(tmp_path)
    settings = {"teacher": str(tmp_path), "noise_scheduler_type": "LCM"} if keeps == "teacher" else {keeps: True}
    config = make_config(pretrained_path=tmp_path, **settings)
    meta = SimpleNamespace(stats=dict(stats), features={ACTION: {"shape": (2,)}, STATE: {"shape": (3,)}})
    note_data(config, meta)
    make_own = make_cdp_pre_post_processors if keeps == "teacher" else make_diffusion_pre_post_processors
    pipelines = make_diffusion_pre_post_processors(before, stats)[0], make_own(config, meta.stats)[0]
    observed = make_observation(before, 1, None)
    theirs, ours = (pipeline(dict(observed))[STATE] for pipeline in pipelines)
    assert torch.equal(ours, theirs) and theirs[..., 0].abs().max() > 100  # which 0 alone would not be


def test_to_keep_statistics_needs_a_checkpoint():
    meta = SimpleNamespace(features={}, tasks=None, stats={})
    with pytest.raises(SettingError, match="^`keep_statistics` must be false without a checkpoint .* Got True.$"):
        note_data(make_config(keep_statistics=True), meta)


@pytest.mark.parametrize("keeps", ["keep_statistics", "freeze_vision_encoder"])
def test_statistics_that_are_kept_are_of_the_revision_whose_weights_are_loaded(keeps, monkeypatch):
    asked = []

    def read(source, revision):
        asked.append((str(source), revision))
        return {}

    monkeypatch.setattr("lerobot_cdp.policy.data_review.read_statistics", read)
    config = make_config(images=True, pretrained_path=Path("user/policy"), pretrained_revision="v1", **{keeps: True})
    note_data(config, SimpleNamespace(stats=None))
    assert asked == [("user/policy", "v1")]


@pytest.mark.parametrize(("size", "stages"), [(24, 2), (32, 3), (48, 4), (17, 2)])
def test_small_pictures_are_seen(make_dataset, size, stages):
    dataset = make_dataset({STATE: 3, ACTION: 2}, {"observation.images.top": (size, size)})
    for settings in (SCRATCH, {"pretrained_backbone_weights": None}):  # group norm, batch norm
        policy = train_and_act(dataset, vision_stages=stages, **settings)
        batch = make_observation(policy.config, 1, 2) | {"observation.images": torch.zeros(1, 2, 1, 3, size, size)}
        black = policy.acting_model.encoder(batch)
        corner = batch["observation.images"].clone()
        corner[..., : size // 3, : size // 3] = 1.0
        assert (policy.acting_model.encoder(batch | {"observation.images": corner}) - black).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("picture", "settings", "message"),
    [
        ((32, 32), {}, "`vision_stages` must be at most 3 with pictures of 32 x 32: .* map of 1 x 1. Got 4."),
        ((24, 16), {"vision_stages": 3}, "at most 2 with pictures of 24 x 16: .* map of 2 x 1. Got 3."),
        ((96, 96), {"resize_shape": (32, 64)}, "at most 3 with pictures of 32 x 64: .* map of 1 x 2. Got 4."),
        ((96, 96), {"crop_shape": (16, 16)}, "at most 2 with pictures of 16 x 16"),
        ((4, 4), {}, "`vision_stages` must be used with larger pictures than 4 x 4"),
        ((96, 96), {"use_group_norm": True, "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1"},
         "`pretrained_backbone_weights` must be null with use_group_norm = true"),
    ],
)  # fmt: skip
def test_pictures_that_say_nothing_are_refused(picture, settings, message):
    inputs = {STATE: feature("STATE", 3), "observation.images.top": feature("VISUAL", 3, *picture)}
    config = make_config(input_features=inputs, **{"pretrained_backbone_weights": None} | settings)
    with pytest.raises(SettingError, match=message):
        config.validate_features()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vision_backbone": "resnet34", "pretrained_backbone_weights": "ResNet50_Weights.DEFAULT"},
         "`pretrained_backbone_weights` must be null or weights of vision_backbone = resnet34"),
    ],
)  # fmt: skip
def test_settings_of_pictures_without_effect_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        CDPConfig(**SMALL | settings)


def test_a_checkpoint_that_sees_little_still_loads(tmp_path):
    """It acts as it did; only a new policy is refused."""
    inputs = {STATE: feature("STATE", 3), "observation.images.top": feature("VISUAL", 3, 32, 32)}
    with built_for_loading():
        policy = CDPPolicy(make_config(input_features=inputs, **SCRATCH)).eval()
    policy.save_pretrained(tmp_path)
    loaded, noise = CDPPolicy.from_pretrained(tmp_path), torch.randn(4, 16, 2)
    batch = make_batch(policy.config)
    assert torch.equal(*(p.predict_action_chunk(batch, noise=noise) for p in (policy, loaded)))


def test_another_resnet_has_its_own_weights():
    assert (
        CDPConfig(**SMALL, vision_backbone="resnet34").pretrained_backbone_weights == "ResNet34_Weights.IMAGENET1K_V1"
    )
    assert CDPConfig(**SMALL, vision_backbone="resnet34", **SCRATCH).pretrained_backbone_weights is None


@pytest.mark.parametrize("crop_shape", [(84, 84), (40, 40)])
def test_a_crop_that_hides_most_of_the_picture_is_remarked_on(caplog, crop_shape):
    inputs = {STATE: feature("STATE", 3), "observation.images.top": feature("VISUAL", 3, 96, 96)}
    make_config(input_features=inputs, crop_shape=crop_shape, **SCRATCH).validate_features()
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if crop_shape[0] == 84 else [m for m in said if "shows the network 17 % of each picture" in m])
    assert bool(said) == (crop_shape[0] == 40)


# ------------------------------------------------------------------ without a network


@pytest.fixture
def offline(monkeypatch):
    def refused(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refused)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refused)


def pretrained_config():
    config = make_config(images=True, use_group_norm=False)
    config.pretrained_backbone_weights = "ResNet18_Weights.IMAGENET1K_V1"
    return config


def test_a_checkpoint_loads_without_a_network(offline, tmp_path):
    config = make_config(images=True, use_group_norm=False)
    policy = CDPPolicy(config)
    config.pretrained_backbone_weights = "ResNet18_Weights.IMAGENET1K_V1"  # as the training had them
    policy.save_pretrained(tmp_path)
    loaded = CDPPolicy.from_pretrained(tmp_path)
    assert loaded.config.pretrained_backbone_weights == "ResNet18_Weights.IMAGENET1K_V1"
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in policy.state_dict().items())
    averaged_only(loaded)


def test_a_training_without_a_network_says_what_to_do(offline):
    with pytest.raises(SettingError, match="`pretrained_backbone_weights` must be here, or be downloaded once"):
        CDPPolicy(pretrained_config())


# ------------------------------------------------------------------ what is not learned from is said


def remarks(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.module == "data_review")


def test_a_sound_dataset_gets_no_remark(make_dataset, caplog):
    make_policy(CDPConfig(**SMALL), ds_meta=make_dataset({STATE: 3, ENV: 2, ACTION: 2}).meta)
    assert remarks(caplog) == ""


def test_inputs_and_words_that_are_ignored(make_dataset, caplog):
    dataset = make_dataset({STATE: 3, "observation.velocity": 3, "observation.force": 6, ACTION: 2}, tasks=("a", "b"))
    policy = train_and_act(dataset)
    assert "Ignored: observation.force, observation.velocity." in remarks(caplog)
    assert "Ignored: the words of the 2 tasks" in remarks(caplog)
    assert set(policy.config.observed_features) == {STATE}


def test_joints_that_stand_still_and_glitches_are_named(make_dataset, caplog):
    def edit(frame, episode, t):
        frame[ACTION][1] = 0.25
        if (episode, t) == (0, 5):
            frame[STATE][2] = 1e6

    make_policy(CDPConfig(**SMALL), ds_meta=make_dataset({STATE: 3, ACTION: 2}, edit=edit, lengths=(200, 60)).meta)
    assert "action: n1 never moved in the demonstrations (range below 0.0001): held where it was" in remarks(caplog)
    assert "observation.state: e2 (" in remarks(caplog) and "e+06) reaches 100 times" in remarks(caplog)
    assert "e0" not in remarks(caplog) and "n0" not in remarks(caplog)


@pytest.mark.parametrize(
    ("settings", "end"),
    [({"ACTION": "MEAN_STD"}, r"1\.[5-9].*ACTION: MEAN_STD"), ({"ACTION": "QUANTILES"}, r"1\.0.*ACTION: QUANTILES"),
     ({"ACTION": "IDENTITY"}, None), ({"ACTION": "MIN_MAX"}, None)],
)  # fmt: skip
def test_clipping_leaves_all_actions_of_the_dataset_to_the_policy(make_dataset, settings, end, tmp_path, caplog):
    """Clipped to ± 1 standard deviation a policy reaches 0.55 where demonstrations reach 0.9."""
    meta = make_dataset({STATE: 3, ACTION: 2}, lengths=(200,)).meta
    mapping = {"normalization_mapping": {"STATE": "MIN_MAX", "ENV": "MIN_MAX", "VISUAL": "MEAN_STD"} | settings}
    make_policy(CDPConfig(**SMALL, **mapping, clip_sample=False), ds_meta=meta)
    make_policy(CDPConfig(**SMALL, **mapping, clip_sample_range=2.0), ds_meta=meta)
    if end is None:  # the demonstrations are within ± 1
        make_policy(CDPConfig(**SMALL, **mapping), ds_meta=meta)
        return
    with pytest.raises(SettingError, match=f"^`clip_sample_range` must be at least {end}.*, or `clip_sample` false. G"):
        make_policy(CDPConfig(**SMALL, **mapping), ds_meta=meta)
    trained = CDPConfig(**SMALL, **mapping, input_features={STATE: feature("STATE", 3)},
                        output_features={ACTION: feature("ACTION", 2)})  # fmt: skip
    CDPPolicy(trained).save_pretrained(tmp_path / "older")
    trained.pretrained_path = tmp_path / "older"
    assert remarks(caplog) == ""
    make_policy(trained, ds_meta=meta)  # resumed, or fine-tuned
    assert "The checkpoint goes on as it was trained." in remarks(caplog)


def test_whole_numbers_are_refused(make_dataset):
    meta = make_dataset({STATE: 3, ACTION: 2}).meta
    meta.features[STATE]["dtype"] = "int64"
    with pytest.raises(SettingError, match="^`observation.state` must be stored as float32 in the dataset. Got int64."):
        make_policy(CDPConfig(**SMALL), ds_meta=meta)


# ------------------------------------------------------------------ what a checkpoint knows of its data


@pytest.mark.parametrize(
    ("action", "names", "is_position"),
    [
        (lambda state: state * 0.9 + 1, ["e0", "e1", "e2"], True),  # where to go next
        (lambda state: state * 0.1 - 3, ["e0", "e1", "e2"], False),  # by how much to move
        (lambda state: state * 0.9 + 1, ["e2", "e1", "e0"], False),
        (lambda state: state * 0.9 + 1, None, False),
    ],
)
def test_whether_an_action_is_a_position_is_found_in_the_data(make_dataset, action, names, is_position):
    def edit(frame, episode, t):
        frame[STATE] = 20 * frame[STATE] + 40
        frame[ACTION] = action(frame[STATE])

    meta = make_dataset({STATE: 3, ACTION: 3}, edit=edit).meta
    meta.features[ACTION]["names"] = names
    config = CDPConfig(**SMALL)
    make_policy(config, ds_meta=meta)
    assert config.action_is_position is is_position
    assert config.action_range == [meta.stats[ACTION][end].tolist() for end in ("min", "max")]


def test_fine_tuning_takes_the_range_and_the_places_of_the_new_data(make_dataset, tmp_path):
    """As `lerobot-train --policy.path` does it: the saved processors get the statistics of the new data."""

    def edit(frame, episode, t):
        frame[STATE][1] = 7.0

    meta = make_dataset({STATE: 3, ACTION: 2}, edit=edit).meta
    other, folders = copy.deepcopy(meta), [tmp_path / "first", tmp_path / "second"]
    other.stats[ACTION] = {name: 2 * value for name, value in meta.stats[ACTION].items()}
    config, overrides = CDPConfig(**SMALL, max_action_step=0.1), {}
    for data, folder in zip((meta, other), folders, strict=True):
        policy = make_policy(config, ds_meta=data)
        if folder is folders[1]:
            steps = {
                "preprocessor_overrides": "normalizer_processor",
                "postprocessor_overrides": "unnormalizer_processor",
            }
            overrides = {way: {step: {"stats": data.stats}} for way, step in steps.items()}
        processors = make_pre_post_processors(config, config.pretrained_path, dataset_stats=data.stats, **overrides)
        for part in (policy, *processors):
            part.save_pretrained(folder)
        width = torch.tensor(data.stats[ACTION]["max"] - data.stats[ACTION]["min"]).float()
        torch.testing.assert_close(policy.limits.step, 0.2 / width)
        loaded = CDPPolicy.from_pretrained(folder)
        assert loaded.config.action_range == [data.stats[ACTION][end].tolist() for end in ("min", "max")]
        torch.testing.assert_close(loaded.limits.step, policy.limits.step)
        before, after = make_pre_post_processors(loaded.config, str(folder))
        assert before({STATE: torch.tensor([0.0, 7.0001, 0.0])})[STATE][0, 1].abs() < 2e-4
        with pytest.raises(ValueError, match="`action` must be finite to be sent. Got nan for n0"):
            after(torch.full((1, 2), torch.nan))
        config = loaded.config
        config.pretrained_path = folder


# ------------------------------------------------------------------ sizes


def test_short_episodes_train_with_the_default(make_dataset):
    root = make_dataset({STATE: 3, ACTION: 2}, lengths=(12, 10, 20)).root
    dataset = LeRobotDataset("local/own", root=root)
    config = CDPConfig(device="cpu")  # a horizon of 64
    assert config.do_mask_loss_for_padding
    starts, ends = (dataset.meta.episodes[f"dataset_{end}_index"] for end in ("from", "to"))
    assert len(EpisodeAwareSampler(starts, ends, drop_n_last_frames=config.drop_n_last_frames)) == 5 + 3 + 13


def test_a_checkpoint_for_another_arm_names_both_sizes(tmp_path):
    CDPPolicy(make_config()).save_pretrained(tmp_path)
    other = make_config(output_features={"action": feature("ACTION", 7)})
    with pytest.raises(ValueError, match=r"^`action` must have shape \(2,\). Got \(7,\): a checkpoint goes on with"):
        CDPPolicy.from_pretrained(tmp_path, config=other)


# ------------------------------------------------------------------ precision and adapters


@pytest.mark.parametrize("backbone", ["unet", "mlp", "dit"])
def test_a_policy_in_bfloat16_acts_nearly_the_same(backbone):
    torch.manual_seed(0)
    policy = CDPPolicy(make_config(backbone=backbone)).eval()
    batch, noise = make_batch(policy.config), torch.randn(4, 16, 2)
    exact = policy.predict_action_chunk(batch, noise=noise)
    half = policy.to(torch.bfloat16).predict_action_chunk(batch, noise=noise)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.1, rtol=0)


@pytest.mark.parametrize("backbone", ["unet", "mlp", "dit"])
def test_an_adapter_trains_from_the_averaged_weights_without_further_settings(backbone, tmp_path):
    pytest.importorskip("peft", reason="the extra `peft` of LeRobot is not installed")
    policy = CDPPolicy(make_config(backbone=backbone))
    for p in policy.ema.parameters():
        p.add_(0.01)
    policy.save_pretrained(tmp_path)
    base = CDPPolicy.from_pretrained(tmp_path)
    base.config.pretrained_path = tmp_path
    batch, noise = make_batch(base.config), torch.randn(4, 16, 2)
    before = base.predict_action_chunk(batch, noise=noise)
    adapted = base.wrap_with_peft(peft_cli_overrides={"method_type": "LORA"})
    torch.testing.assert_close(adapted.predict_action_chunk(batch, noise=noise), before)  # it begins as nothing
    adapted.train()
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=1e-2)
    loss, _ = adapted(batch)
    loss.backward(), optimizer.step(), adapted.update()
    assert not torch.allclose(adapted.eval().predict_action_chunk(batch, noise=noise), before)


def test_an_adapter_leaves_the_statistics_of_pictures(tmp_path):
    """They are not in its checkpoint: what it was trained on must be what it will act on."""
    pytest.importorskip("peft", reason="the extra `peft` of LeRobot is not installed")
    CDPPolicy(make_config(images=True, use_group_norm=False)).save_pretrained(tmp_path)
    base = CDPPolicy.from_pretrained(tmp_path)
    base.config.pretrained_path = tmp_path
    adapted = base.wrap_with_peft(peft_cli_overrides={"method_type": "LORA"}).train()
    before = {name: value.clone() for name, value in base.diffusion.encoder.named_buffers()}
    adapted(make_batch(base.config))
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in base.diffusion.encoder.named_buffers())
