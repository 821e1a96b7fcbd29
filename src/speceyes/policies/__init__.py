"""Policies say when each phase of a query starts, and what is cancelled."""
