"""The embedded default model and the recipe behind it: a world of 24 nouns and 11 colours, its pictures, its judge."""
