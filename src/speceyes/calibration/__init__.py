"""A threshold with a stated risk, and the watch over it: pure arithmetic on counts and scores."""
