"""Commands that evaluate, run from the root of a clone.

    python -m eval.benchmark           train and score a grid of policies
    python -m eval.population          train the policies of such a grid at once, on a GPU
    python -m eval.benchmark.report    pages and pictures of the results in eval/results
    python -m eval.one_action          the paper's regime: one action per inference, with its controls
    python -m eval.fixed_noise         how much the start noise decides of an episode
    python -m eval.alarm               does a policy know beforehand that it will fail?
    python -m eval.cdpm                sampling with a contractive process
    python -m eval.offline_rl          the penalty beside a critic: offline reinforcement learning
    python -m eval.speed_up            make trained policies fast by `lerobot_cdp.speed_up`, and score them
    python -m eval.demo                record, train and compare two policies
    python -m eval.toy                 what the penalty does in two dimensions
    python -m eval.toy.students        what it does to distillation there
    python -m eval.arm                 the control loop on the simulated arm
    python -m eval.cost                time and memory of a training step and of a chunk
    python -m eval.cuda                all of it on a GPU: what runs, what agrees with the CPU, what it costs
    python -m eval.cost.eigenvalue_error, python -m eval.cost.large_checkpoint

`policies`, `memory_dataset` and `provenance` are what they share.
"""
