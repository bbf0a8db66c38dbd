"""How the miniature was made, from its drawings to the files that ship: `python -m ebama.training`."""
