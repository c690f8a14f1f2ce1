"""From nothing to compared policies: record, train `diffusion` and `cdp`, evaluate, print and plot.

    python -m eval.demo --output_dir=outputs/demo            (`make demo`)

The stages are stock commands, `data.record_so101` and `lerobot-train`, and `evaluate`. What they print goes to log
files, which begin with the command. What is done already is skipped, and an interrupted training goes on from its
last checkpoint. No network, GPU or display is needed.
"""
