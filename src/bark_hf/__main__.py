"""`python -m bark_hf` is `bark-hf`."""

from .cli.main import main

if __name__ == "__main__":
    main()
