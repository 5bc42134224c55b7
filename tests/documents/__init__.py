"""Every command of README, CONTRIBUTING and docs/, run as a reader would: `python -m tests.documents --help`."""
