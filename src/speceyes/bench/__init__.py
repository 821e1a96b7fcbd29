"""The laboratory: the agent alone and SpecEyes side by side, graded, counted and drawn."""
