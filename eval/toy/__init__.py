"""What the penalty does in two dimensions: `model` (data, network, training), `measures`, `plots`."""
