"""The command line: `cli` is what people start; `loading`, `speaking` and `terminal` are its parts."""
