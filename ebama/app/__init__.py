"""A page on this computer: prompts in, pictures, maps and curves out (the command `serve`, extra `app`)."""
