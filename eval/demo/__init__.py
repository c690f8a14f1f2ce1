"""From nothing to compared policies: record, train, evaluate, print and plot.

    python -m eval.demo --output_dir=outputs/demo            (`make demo`)

LeRobot's `diffusion`, and `cdp` without and with its penalty, get the same network, data, training steps and
prediction type, and are scored with few and with many network evaluations. The stages are `data.record_so101`,
`lerobot-train` and `eval.demo.evaluate`; what they print goes to log files, which begin with the command. What is done
already is skipped, and an interrupted training goes on from its last checkpoint. No network, GPU or display is needed.
"""
