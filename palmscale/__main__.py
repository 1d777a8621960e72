"""`python -m palmscale` is the `palmscale` command."""

from palmscale.cli.main import main

if __name__ == "__main__":
    main()
