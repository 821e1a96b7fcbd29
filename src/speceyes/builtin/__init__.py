"""What comes with speceyes: a suite drawn from seeds, and a pair of small models to answer it."""
