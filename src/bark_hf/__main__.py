"""`python -m bark_hf` is `bark-hf`."""

from .apps.cli import main

if __name__ == "__main__":
    main()
