"""The pages of a run: tables and the HTML report."""
