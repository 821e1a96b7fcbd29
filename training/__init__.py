"""How the built-in pair was trained: `python -m training.pair` does it all and resumes."""
