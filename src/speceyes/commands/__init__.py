"""One file per command of the command line; `cli` puts them together."""
