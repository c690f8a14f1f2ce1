"""From observations to the condition of the network: LeRobot's encoders, cameras of any size."""

import torch
import torchvision
from einops import rearrange
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionRgbEncoder, SpatialSoftmax, _replace_submodules
from lerobot.policies.utils import get_output_shape
from lerobot.utils.constants import OBS_ENV_STATE, OBS_IMAGES, OBS_STATE
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, RandomCrop, Resize
from torchvision.transforms.v2.functional import resize

from ..errors import SettingError
from .picture import N_STAGES, is_built_for_loading, seen_size

__all__ = ["ObservationEncoder", "RgbEncoder", "stack_cameras"]


class RgbEncoder(DiffusionRgbEncoder):
    """LeRobot's ResNet with spatial softmax, cut after some of its four stages.

    After k of them the map that the softmax looks for places on has 1 / 2^(k + 1) of the picture's sides: all four
    leave 3 x 4 places of a picture of 96 x 128, two leave 12 x 16. The cut comes first: LeRobot's own `__init__` would
    send a picture through all four, which small ones do not survive.

    Args:
        config: LeRobot's settings of the ResNet, and the cameras.
        n_stages: k, in [1, 4].

    Raises:
        SettingError: if pretrained weights are not here and cannot be downloaded.
    """

    def __init__(self, config: DiffusionConfig, n_stages: int):
        nn.Module.__init__(self)
        picture = next(iter(config.image_features.values())).shape[1:]
        size = seen_size(picture, config.resize_shape, config.crop_shape)
        self.resize = None if config.resize_shape is None else Resize(config.resize_shape)
        self.do_crop = config.crop_shape is not None
        if self.do_crop:
            self.center_crop = CenterCrop(size)
            self.maybe_random_crop = RandomCrop(size) if config.crop_is_random else self.center_crop
        resnet = list(_resnet(config).children())[:-2]  # without its pooling and its classes
        self.backbone = nn.Sequential(*resnet[: len(resnet) - N_STAGES + n_stages])
        if config.use_group_norm:
            self.backbone = _replace_submodules(
                self.backbone,
                predicate=lambda module: isinstance(module, nn.BatchNorm2d),
                func=lambda norm: nn.GroupNorm(norm.num_features // 16, norm.num_features),
            )
        feature_map = get_output_shape(self.backbone.eval(), (1, 3, *size))[1:]
        self.backbone.train()
        self.pool = SpatialSoftmax(feature_map, num_kp=config.spatial_softmax_num_keypoints)
        self.feature_dim = 2 * config.spatial_softmax_num_keypoints
        self.out = nn.Linear(self.feature_dim, self.feature_dim)
        self.relu = nn.ReLU()


def _resnet(config: DiffusionConfig) -> nn.Module:
    try:
        weights = None if is_built_for_loading() else config.pretrained_backbone_weights
        return getattr(torchvision.models, config.vision_backbone)(weights=weights)
    except (KeyError, ValueError) as error:
        known = [str(weights) for weights in torchvision.models.get_model_weights(config.vision_backbone)]
        must_be, got = f"null or one of {known}", config.pretrained_backbone_weights
        raise SettingError(f"`pretrained_backbone_weights` must be {must_be}. Got {got!r}.") from error
    except OSError as error:  # of which urllib's and huggingface_hub's are kinds
        raise SettingError(
            f"`pretrained_backbone_weights` must be here, or be downloaded once. Got "
            f"{config.pretrained_backbone_weights!r} and no connection ({error}). Connect, copy the file into "
            f"{torch.hub.get_dir()}/checkpoints, or train from scratch by --policy.pretrained_backbone_weights=null."
        ) from error


class ObservationEncoder(nn.Module):
    """State, environment state and cameras over `n_obs_steps`, as one vector (B, C).

    Vectors go in as they are; images through LeRobot's ResNet with spatial softmax.

    Args:
        config: names the features; LeRobot's settings of the ResNet.
        vision_stages: stages of the ResNet that are used, in [1, 4].
        frozen: whether it is never trained, and always sees pictures as at inference.
    """

    def __init__(self, config: DiffusionConfig, vision_stages: int = N_STAGES, frozen: bool = False):
        super().__init__()
        self.frozen = frozen
        self.image_features, self.env_state_feature = config.image_features, config.env_state_feature
        n_cameras = len(config.image_features)
        n_encoders = n_cameras if config.use_separate_rgb_encoder_per_camera else min(n_cameras, 1)
        self.rgb_encoders = nn.ModuleList(RgbEncoder(config, vision_stages) for _ in range(n_encoders))
        vectors = filter(None, (config.robot_state_feature, config.env_state_feature))
        width = sum(feature.shape[0] for feature in vectors)
        width += sum(self._encoder_of(camera).feature_dim for camera in range(n_cameras))
        self.condition_dim = config.n_obs_steps * width
        if frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> "ObservationEncoder":
        """As torch does, but of one that is frozen not even the running statistics of images change."""
        return super().train(mode and not self.frozen)

    def _encoder_of(self, camera: int) -> RgbEncoder:
        return self.rgb_encoders[camera if len(self.rgb_encoders) > 1 else 0]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Encode `observation.*`, each (B, n_obs_steps, …), cameras stacked by `stack_cameras`: -> (B, C)."""
        features = [batch[OBS_STATE]]
        if self.image_features:
            features.append(self._encode_images(batch[OBS_IMAGES]))
        if self.env_state_feature:
            features.append(batch[OBS_ENV_STATE])
        return torch.cat(features, dim=-1).flatten(1)

    def _encode_images(self, images: Tensor) -> Tensor:
        """(B, n_obs_steps, cameras, C, H, W) -> (B, n_obs_steps, cameras · features)."""
        batch, steps, cameras = images.shape[:3]
        if len(self.rgb_encoders) == 1:  # one pass, and one random crop, for all cameras
            features = self.rgb_encoders[0](images.flatten(0, 2))
            return features.view(batch, steps, -1)
        features = [self.rgb_encoders[i](images[:, :, i].flatten(0, 1)) for i in range(cameras)]
        return rearrange(features, "n (b s) f -> b s (n f)", b=batch)


def stack_cameras(batch: dict[str, Tensor], config: DiffusionConfig, time_axis: bool) -> dict[str, Tensor]:
    """A shallow copy of the batch with all cameras under `observation.images`.

    Args:
        batch: each camera (B, [n_obs_steps,] C, H, W), in [0, 1] or normalised; of any size with `resize_shape`.
        config: names the cameras and their order.
        time_axis: whether the batch is stacked over time; LeRobot's dataset drops that axis from images of one step.

    Returns:
        With (B, [n_obs_steps,] cameras, C, H, W), resized to `resize_shape` where it is set.
    """
    batch = dict(batch)
    images = [batch[key] for key in config.image_features]
    if time_axis:
        images = [image.unsqueeze(1) if image.ndim == 4 else image for image in images]
    if config.resize_shape is not None:  # camera by camera: what is stacked has one size
        images = [resize(image, list(config.resize_shape)) for image in images]
    if images:
        batch[OBS_IMAGES] = torch.stack(images, dim=-4)
    return batch
