"""The command line: `main` is what people start; `loading`, `speaking` and `terminal` are its parts."""
