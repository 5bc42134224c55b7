"""The report page in a real browser: `make test-web`, which needs Chromium."""
