"""LeRobot's policy type `cdp`.

configuration_cdp    its settings
modeling_cdp         CDPPolicy: the training loss, acting, checkpoints
processor_cdp        what goes before and after it
model                encoder, backbone and process together: diffusion loss and sampling
build                settings become objects
ema                  moving average of the weights
checks               one-line errors for batches
watch                warnings about observations unlike the demonstrations
statistics           of the normalisation: read and checked
schema               version of the settings in a checkpoint
sharding             FSDP: what it wraps, what it cannot train
lerobot_main         adapter to LeRobot's main branch
"""
