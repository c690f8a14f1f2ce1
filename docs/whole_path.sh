#!/bin/sh
# Every step in a clone: record, train, evaluate, prepare the publication, export. Needs no GPU, display or Hub account.
#
#     sh docs/whole_path.sh                                       minutes on two CPU cores
#     STEPS=2 DEMONSTRATIONS=1 EPISODES=1 sh docs/whole_path.sh   a check that everything runs
#
# PUSH=true also sends the policy to the Hub as REPO_ID; log in first with `hf auth login`.
set -eu
cd "$(dirname "$0")/.."

OUT=${OUT:-outputs/whole_path}
STEPS=${STEPS:-3500}
DEMONSTRATIONS=${DEMONSTRATIONS:-300}
EPISODES=${EPISODES:-20}
EPISODE_LENGTH=${EPISODE_LENGTH:-150}
OBSERVATIONS=${OBSERVATIONS:-64}
REPO_ID=${REPO_ID:-USER/cdp_so101}
PUSH=${PUSH:-false}

python -m data.record_so101 --repo_id=local/so101_pick_place --root="$OUT/dataset" --n_episodes="$DEMONSTRATIONS"

lerobot-train --config_path=configs/policy/so101_pick_place.yaml --dataset.root="$OUT/dataset" \
    --policy.device=cpu --steps="$STEPS" --output_dir="$OUT/train"

lerobot-eval --policy.path="$OUT/train/checkpoints/last/pretrained_model" --policy.device=cpu \
    --env.type=so101_pick_place --env.episode_length="$EPISODE_LENGTH" --eval.n_episodes="$EPISODES" \
    --eval.use_async_envs=false --output_dir="$OUT/eval"

python -m lerobot_cdp.publish --policy.path="$OUT/train" --repo_id="$REPO_ID" --eval="$OUT/eval" \
    --n_observations="$OBSERVATIONS" --output_dir="$OUT/publish" --push="$PUSH"

python -m lerobot_cdp.export --policy.path="$OUT/train" --output_dir="$OUT/exported"
