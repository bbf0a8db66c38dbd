"""Files that the library writes: recipes in PNGs, atomic writes, seeds as text."""
