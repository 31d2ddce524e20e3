"""`python -m coprocess`."""

from coprocess.cli import main

if __name__ == "__main__":
    main()
