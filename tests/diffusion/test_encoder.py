"""Cameras of any size, shared or separate encoders."""

import pytest
import torch
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel

from lerobot_cdp.diffusion.encoder import ObservationEncoder, RgbEncoder, stack_cameras
from lerobot_cdp.policy.modeling_cdp import CDPPolicy
from tests.conftest import feature, make_batch, make_config, make_observation

SIZES = {"top": (3, 48, 40), "wrist": (3, 24, 32)}


def different_cameras(resize_shape=(36, 40), **settings):
    features = {"observation.state": feature("STATE", 3)}
    features |= {f"observation.images.{name}": feature("VISUAL", *shape) for name, shape in SIZES.items()}
    return make_config(images=True, input_features=features, resize_shape=resize_shape, **settings)


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("crop_ratio", [1.0, 0.8])
def test_the_condition_is_lerobots(separate, crop_ratio):
    """On cameras of one size, which LeRobot takes; `resize` before stacking is the encoder's own."""
    settings = {"use_separate_rgb_encoder_per_camera": separate, "resize_shape": (16, 20), "crop_ratio": crop_ratio}
    theirs = DiffusionModel(make_config(DiffusionConfig, True, **settings)).eval()
    config = make_config(images=True, **settings)
    ours = ObservationEncoder(config).eval()
    ours.rgb_encoders.load_state_dict(
        {k if separate else f"0.{k}": v for k, v in theirs.rgb_encoder.state_dict().items()}
    )
    batch = make_batch(config)
    stacked = batch | {"observation.images": torch.stack([batch[k] for k in config.image_features], dim=-4)}
    condition = ours(stack_cameras(batch, config, time_axis=True))
    assert condition.shape == (4, ours.condition_dim)
    assert torch.equal(condition, theirs._prepare_global_conditioning(stacked))


@pytest.mark.parametrize("separate", [True, False])
def test_cameras_of_different_sizes_train_and_act(separate):
    policy = CDPPolicy(different_cameras(use_separate_rgb_encoder_per_camera=separate))
    loss, _ = policy.train()(make_batch(policy.config))
    loss.backward()
    assert all(p.grad is not None for p in policy.diffusion.encoder.parameters())
    policy.eval()
    observation = make_observation(policy.config, 2, None)
    assert policy.select_action(observation).shape == (2, 2)
    assert policy._queues["observation.images"][0].shape == (2, 2, 3, 36, 40)  # what is kept is small
    del observation["observation.images.wrist"]
    with pytest.raises(ValueError, match=r"^`observation.images.wrist` must be in the batch\. Got \["):
        policy.select_action(observation)


@pytest.mark.parametrize("n_obs_steps", [1, 2])
def test_images_of_another_size_than_the_features(n_obs_steps):
    """A robot's camera may be set otherwise than at recording; LeRobot's dataset drops the time axis of one step."""
    config = different_cameras(n_obs_steps=n_obs_steps)
    policy = CDPPolicy(config)
    batch = make_batch(config)
    for key in config.image_features:
        image = torch.rand(4, n_obs_steps, 3, 30, 50)
        batch[key] = image[:, 0] if n_obs_steps == 1 else image
    assert policy.train()(batch)[0].isfinite()
    observation = make_observation(config, 2, None)
    observation |= {key: torch.rand(2, 3, 60, 80) for key in config.image_features}
    assert policy.eval().select_action(observation).shape == (2, 2)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("crop_ratio", [1.0, 0.5])
def test_fewer_stages_leave_a_finer_map(stages, crop_ratio):
    """The first stages are those of the whole ResNet, and the softmax looks for places on the last one's map."""
    settings = {"resize_shape": (64, 128), "crop_ratio": crop_ratio, "use_group_norm": True}
    whole = RgbEncoder(make_config(images=True, **settings), 4).eval()
    cut = RgbEncoder(make_config(images=True, **settings), stages).eval()
    cut.backbone.load_state_dict(whole.backbone.state_dict(), strict=stages == 4)
    image = torch.rand(2, 3, *cut.center_crop.size) if crop_ratio < 1 else torch.rand(2, 3, 64, 128)
    stride = 2 ** (stages + 1)
    feature_map = cut.backbone(image)
    assert feature_map.shape[2:] == (image.shape[2] // stride, image.shape[3] // stride)
    assert torch.equal(feature_map, whole.backbone[: len(cut.backbone)](image))
    assert cut.pool.pos_grid.shape == (feature_map[0, 0].numel(), 2)
    assert cut(torch.rand(2, 3, 48, 40)).shape == (2, cut.feature_dim)
    encoder = ObservationEncoder(make_config(images=True, **settings), stages)
    assert len(encoder.rgb_encoders[0].backbone) == len(cut.backbone)
