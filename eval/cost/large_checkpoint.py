"""Push a large policy to a Hub on loopback and pull it again: peak memory of either, in units of its size.

    python -m eval.cost.large_checkpoint --megabytes=250

Each half is a process of its own, whose peak resident memory is taken by the operating system. What Python, torch and
LeRobot take before the policy is there is subtracted. Needs a clone: the Hub is that of the tests. Linux and macOS.
"""

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import draccus
import torch

REPO_ID = "user/large"
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


@dataclass
class LargeCheckpointConfig:
    """Settings.

    Args:
        megabytes: Size of the weight file.
        half: For the processes that this one starts: `make`, `push` or `pull`.
        folder: Theirs.
    """

    megabytes: int = 250
    half: str | None = None
    folder: Path | None = None


def make(folder: Path, megabytes: int) -> None:
    """Save a policy of about this size, with its processors; half of it is the moving average."""
    from lerobot.configs import FeatureType, PolicyFeature

    from lerobot_cdp.policy.configuration_cdp import CDPConfig
    from lerobot_cdp.policy.modeling_cdp import CDPPolicy
    from lerobot_cdp.policy.processor_cdp import make_cdp_pre_post_processors

    width = round((megabytes * 1e6 / 4 / 2 / 7.4) ** 0.5)  # about 7.4 weights for each pair of hidden units
    state, action = PolicyFeature(FeatureType.STATE, (14,)), PolicyFeature(FeatureType.ACTION, (4,))
    seen = {"observation.state": state, "observation.environment_state": PolicyFeature(FeatureType.ENV, (12,))}
    config = CDPConfig(
        backbone="mlp", hidden_dim=width, device="cpu", input_features=seen, output_features={"action": action}
    )
    CDPPolicy(config).save_pretrained(folder)
    for processor in make_cdp_pre_post_processors(config):
        processor.save_pretrained(folder)


def push(folder: Path) -> int:
    """Publish it; return the peak memory before."""
    from lerobot_cdp.checkpoints.folders import CheckpointSource
    from lerobot_cdp.publish import PublishConfig, publish

    before = peak()
    source, bundle = CheckpointSource(str(folder / "policy")), folder / "bundle"
    publish(PublishConfig(source, REPO_ID, n_observations=0, output_dir=bundle, push=True))
    return before


def pull() -> int:
    """Load it from the Hub; return the peak memory before."""
    from lerobot_cdp.policy.modeling_cdp import CDPPolicy

    before = peak()
    CDPPolicy.from_pretrained(REPO_ID)
    return before


def peak() -> int:
    """Largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def measure(megabytes: int) -> dict[str, float]:
    """Peak memory over size, of the push and of the pull."""
    from tests.loopback_hub import Hub
    from tests.loopback_hub.client import environment

    with tempfile.TemporaryDirectory() as folder, Hub(Path(folder)) as hub:
        peaks = {}
        for half in ("make", "push", "pull"):
            command = [
                sys.executable,
                "-m",
                __spec__.name,
                f"--half={half}",
                f"--folder={folder}",
                f"--megabytes={megabytes}",
            ]
            env = environment(hub.url, Path(folder) / "home")
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
            peaks[half] = json.loads(done.stdout.splitlines()[-1])
        size = (Path(folder) / "policy" / "model.safetensors").stat().st_size
    return {"megabytes": size / 1e6, "push": peaks["push"] / size, "pull": peaks["pull"] / size}


def main() -> None:
    config = draccus.parse(LargeCheckpointConfig)
    if config.half is None:
        ratios = measure(config.megabytes)
        print(
            f"{ratios['megabytes']:.0f} MB: peak memory / size {ratios['push']:.2f} pushed, {ratios['pull']:.2f} pulled"
        )
        return
    torch.set_num_threads(1)
    if config.half == "make":
        before = make(config.folder / "policy", config.megabytes) or 0
    else:
        before = push(config.folder) if config.half == "push" else pull()
    print(json.dumps(peak() - before))


if __name__ == "__main__":
    main()
