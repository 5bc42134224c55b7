"""Speed and strength as ratios measured side by side in one process: `python -m tests.bench`."""
