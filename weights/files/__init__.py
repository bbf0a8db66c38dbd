"""Files of tensors: containers, safe reading of pickles, memory mapping."""
