"""Answers of the report page: sentences, plots with text, and tables whose rows open."""
