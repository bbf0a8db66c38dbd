"""Names and shapes of weights in the layouts that checkpoints come in."""
