"""The control loop on the simulated arm, which runs as `twin_process`."""
