"""Methods that optimise the initial noise before they sample."""
