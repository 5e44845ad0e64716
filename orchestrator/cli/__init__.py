"""The command line: one module a command. Click has its home here."""
