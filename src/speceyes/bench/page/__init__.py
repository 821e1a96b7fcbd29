"""Runs on one page: tables, figures and a gallery that need no network and no other file."""
