"""Fixtures that several folders of tests share."""

pytest_plugins = ("tests.report.run_folders",)
