"""From nothing to a compared policy: record, train `cdp` and `diffusion`, evaluate both, print and plot.

    python eval/demo.py --output_dir=outputs/demo            (`make demo`)

Every stage is a stock command, printed before it runs, both policies side by side; what is done already is skipped
and an interrupted training goes on from its last checkpoint. No network, GPU or display is needed.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import draccus
import torch
from demo_report import plot, table
from lerobot.configs.train import TrainPipelineConfig
from memory_dataset import load_memory_dataset
from rollouts import chunk_latency, load_policy

from lerobot_cdp.report.expansion import expansion

REPOSITORY = Path(__file__).resolve().parents[1]
PRESET = REPOSITORY / "configs" / "policy" / "so101_pick_place.yaml"
# What `diffusion` shares with the preset of `cdp`: the network, the chunks and the training.
SHARED_SETTINGS = (
    "n_obs_steps", "horizon", "n_action_steps", "down_dims", "optimizer_lr", "scheduler_warmup_steps",
    "drop_n_last_frames", "normalization_mapping", "prediction_type",
)  # fmt: skip
POLICIES = ("cdp", "diffusion")
TIMESTEP_SHARE = 0.1  # of the timesteps, from the data on: where margins are measured, for both
UNSEEN_SEED = 1000  # the recorder counts its seeds from 0


@dataclass
class DemoConfig:
    """Settings of the demo.

    Args:
        output_dir: Folder of the demonstrations, the checkpoints and the results; the same one goes on.
        n_demonstrations: Demonstrations recorded.
        steps: Training steps of each policy.
        n_episodes: Evaluation episodes, from unseen seeds.
    """

    output_dir: Path = field(default=Path("outputs/demo"))
    n_demonstrations: int = 300
    steps: int = 3500
    n_episodes: int = 20

    def __post_init__(self):
        for name in ("n_demonstrations", "steps", "n_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Got {getattr(self, name)}.")

    @property
    def dataset(self) -> Path:
        return self.output_dir / "so101_pick_place"

    def train_dir(self, policy: str) -> Path:
        return self.output_dir / "train" / policy

    def checkpoint(self, policy: str) -> Path:
        return self.train_dir(policy) / "checkpoints" / "last" / "pretrained_model"

    def eval_dir(self, policy: str) -> Path:
        return self.output_dir / "eval" / f"{policy}-{self.steps}steps-{self.n_episodes}episodes"


def run(commands: dict[str, list[object]], log_dir: Path) -> None:
    """Print commands and run them side by side with this Python's scripts; return when all are done.

    The first one writes to the terminal, the others to `log_dir`/<their name>.log. Networks this small are no quicker
    on two threads than on one: with two cores, two of them take little longer than one.
    """
    processes = {}
    try:
        for name, command in commands.items():
            words = [str(word) for word in command]
            log = log_dir / f"{name}.log" if processes else None
            print(f"\n$ {shlex.join(words)}" + (f" > {log}" if log else ""), flush=True)
            processes[name] = start(words, log)
        for process in processes.values():
            process.wait()
    finally:  # none goes on alone
        for process in processes.values():
            process.terminate()
            process.wait()
    failed = [name for name, process in processes.items() if process.returncode]
    if failed:
        sys.exit(f"{' and '.join(failed)} failed, see above or in {log_dir}; `make demo` goes on from here.")


def start(words: list[str], log: Path | None) -> subprocess.Popen:
    """Start a command on one thread, with its output in the file `log` or, for None, in the terminal."""
    program = [sys.executable] if words[0] == "python" else [str(Path(sys.executable).parent / words[0])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if log is None:
        return subprocess.Popen([*program, *words[1:]], env=environment)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.Popen([*program, *words[1:]], env=environment, stdout=file, stderr=subprocess.STDOUT)


def train_command(config: DemoConfig, policy: str) -> list[object]:
    """The lerobot-train command of a policy; both have the same network, data and steps."""
    last = config.checkpoint(policy) / "train_config.json"
    if not last.exists():
        shutil.rmtree(config.train_dir(policy), ignore_errors=True)  # killed in its first checkpoint
    if last.exists():
        return ["lerobot-train", f"--config_path={last}", "--resume=true", f"--steps={config.steps}"]
    common = ["--dataset.streaming=true", f"--dataset.root={config.dataset}"]
    common += [
        f"--output_dir={config.train_dir(policy)}",
        f"--steps={config.steps}",
        f"--save_freq={max(1, config.steps // 4)}",
        "--policy.device=cpu",
    ]
    if policy == "cdp":
        return ["lerobot-train", f"--config_path={PRESET}", *common]
    preset = draccus.parse(TrainPipelineConfig, PRESET, args=["--policy.device=cpu"])
    same = [f"--policy.{name}={_argument(getattr(preset.policy, name))}" for name in SHARED_SETTINGS]
    same += [
        f"--{name}={getattr(preset, name)}"
        for name in ("batch_size", "num_workers", "log_freq", "env_eval_freq", "seed")
    ]
    policy_arguments = [f"--policy.type={policy}", "--policy.push_to_hub=false"]
    return ["lerobot-train", f"--dataset.repo_id={preset.dataset.repo_id}", *policy_arguments, *same, *common]


def _argument(value: object) -> str:
    return json.dumps(value) if isinstance(value, tuple | list | dict) else str(value)


def trained_steps(config: DemoConfig, policy: str) -> int:
    """Steps of the last checkpoint; 0 where there is none."""
    file = config.train_dir(policy) / "checkpoints" / "last" / "training_state" / "training_step.json"
    return json.loads(file.read_text())["step"] if file.exists() else 0


def eval_command(config: DemoConfig, policy: str) -> list[object]:
    """The lerobot-eval command of a policy, on unseen seeds."""
    return [
        "lerobot-eval",
        f"--policy.path={config.checkpoint(policy)}",
        "--policy.device=cpu",
        "--env.type=so101_pick_place",
        f"--eval.n_episodes={config.n_episodes}",
        f"--eval.batch_size={min(10, config.n_episodes)}",
        "--eval.use_async_envs=false",
        f"--seed={UNSEEN_SEED}",
        f"--output_dir={config.eval_dir(policy)}",
    ]


def train_and_evaluate(config: DemoConfig) -> None:
    """Bring both policies to `steps` training steps and evaluate them, where that is not done."""
    untrained = [policy for policy in POLICIES if trained_steps(config, policy) < config.steps]
    run({f"train-{policy}": train_command(config, policy) for policy in untrained}, config.output_dir)
    unknown = [policy for policy in POLICIES if not (config.eval_dir(policy) / "eval_info.json").exists()]
    run({f"eval-{policy}": eval_command(config, policy) for policy in unknown}, config.output_dir)


def measure(config: DemoConfig, policy: str) -> dict:
    """Success, chunk latency and the contraction margin of each checkpoint, as plain data."""
    overall = json.loads((config.eval_dir(policy) / "eval_info.json").read_text())["overall"]
    margins = []
    for folder in sorted(p for p in (config.train_dir(policy) / "checkpoints").iterdir() if not p.is_symlink()):
        trained, preprocessor, _ = load_policy(folder / "pretrained_model", {})
        margin = expansion(trained, _batch(config, trained, preprocessor), TIMESTEP_SHARE).margin
        margins.append(
            {
                "step": int(folder.name),
                "margin": margin.mean().item(),
                "contracting": (margin > 0).float().mean().item(),
            }
        )
    return {
        "policy": policy,
        "parameters": sum(p.numel() for p in trained.diffusion.parameters()),
        "success_percent": overall["pc_success"],
        "n_episodes": config.n_episodes,
        "evaluations": trained.config.num_inference_steps or trained.config.num_train_timesteps,
        "chunk_latency_s": chunk_latency(trained),
        "margins": margins,
    }


def _batch(config: DemoConfig, policy, preprocessor) -> dict:
    dataset = load_memory_dataset("local/so101_pick_place", str(config.dataset), None, policy.config)
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:256]
    return preprocessor(dataset.batch(rows))


def main(config: DemoConfig) -> None:
    torch.set_num_threads(1)  # as the commands below: times are those of one thread
    start = time.perf_counter()
    recorder = REPOSITORY / "data" / "record_so101.py"
    record = ["python", recorder, f"--root={config.dataset}", f"--n_episodes={config.n_demonstrations}"]
    run({"record": record}, config.output_dir)
    train_and_evaluate(config)
    results = [measure(config, policy) for policy in POLICIES]
    (config.output_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    picture = config.output_dir / "demo.png"
    plot(results, picture)
    print(f"\n{table(results)}\nPicture: {picture}    Numbers: {config.output_dir / 'results.json'}")
    print(f"All of it took {(time.perf_counter() - start) / 60:.1f} min.\n\nTo go on:")
    checkpoint = config.checkpoint("cdp")
    print(f"  lerobot-eval --policy.path={checkpoint} --env.type=so101_pick_place --eval.n_episodes=50")
    print(f"  lerobot-train --config_path={checkpoint}/train_config.json --resume=true --steps={2 * config.steps}")
    print("  lerobot-train --policy.type=cdp --dataset.repo_id=USER/YOUR_DATASET")


if __name__ == "__main__":
    try:
        main(draccus.parse(DemoConfig))
    except KeyboardInterrupt:
        sys.exit("Interrupted; `make demo` goes on from here.")
