"""What speed and cost to expect, before anything is switched on: the funnel on a clock of its own."""
