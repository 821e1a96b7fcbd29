"""What speed and cost to expect before anything is switched on: queries on a virtual clock."""
