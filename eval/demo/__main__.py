"""`python -m eval.demo`: the stages of the demo one after another, then a table and a picture."""

import signal
import sys
import time

import draccus

from .commands import evaluate_command, record_command, train_command
from .results import Results
from .settings import POLICIES, DemoConfig
from .stages import StageError, run_stage

__all__ = ["main"]

AGAIN = "The same command goes on from here."


def main(config: DemoConfig) -> None:
    """Run what is missing and show the results.

    Raises:
        StageError: if a command fails.
    """
    start = time.perf_counter()
    print(f"SO-101 pick and place, simulated: {' and '.join(POLICIES)}. Files and logs: {config.output_dir}")
    record(config)
    train(config)
    evaluate(config)
    show(config)
    print(f"\nAll of it took {(time.perf_counter() - start) / 60:.1f} min.")


def record(config: DemoConfig) -> None:
    commands = {} if config.recorded() else {"record": record_command(config)}
    run_stage(f"1/3  record {config.n_demonstrations} demonstrations", commands, config.logs)


def train(config: DemoConfig) -> None:
    """Train the policies side by side."""
    untrained = [policy for policy in POLICIES if config.trained_steps(policy) < config.steps]
    commands = {f"train-{policy}": train_command(config, policy) for policy in untrained}
    run_stage(f"2/3  train {len(POLICIES)} policies, {config.steps} steps", commands, config.logs, bar="Training")


def evaluate(config: DemoConfig) -> None:
    commands = {} if Results.read(config).complete else {"evaluate": evaluate_command(config)}
    run_stage(f"3/3  evaluate on {config.n_episodes} unseen starts", commands, config.logs, bar="evaluating")


def show(config: DemoConfig) -> None:
    """Print the table and what to do next, and draw the picture."""
    from .picture import plot, table  # matplotlib takes a second: the first stage begins at once

    results = Results.read(config)
    plot(results, config.picture)
    print(f"\n{table(results)}\n")
    print(f"Picture: {config.picture}    Numbers: {config.results}    Checkpoints: {config.output_dir / 'train'}")
    checkpoint = config.checkpoint("cdp")
    print("\nTo go on:")
    print(f"  lerobot-eval --policy.path={checkpoint} --env.type=so101_pick_place --eval.n_episodes=50")


def _terminated(*_) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    try:
        main(draccus.parse(DemoConfig))
    except StageError as error:
        sys.exit(f"\n{error}\n{AGAIN}")
    except KeyboardInterrupt:
        sys.exit(f"\nInterrupted. {AGAIN}")
