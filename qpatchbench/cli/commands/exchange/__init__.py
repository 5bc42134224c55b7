"""Commands for what travels between people: patches as files, suites for a network of one's own."""
