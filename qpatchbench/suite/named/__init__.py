"""Names in a suite: files beside it, patches of other runs, and the suites that come with the package."""
