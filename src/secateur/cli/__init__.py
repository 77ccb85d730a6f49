"""The command line: one file per command; parse, one call, exit code."""
