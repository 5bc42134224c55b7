"""One leaderboard row, traced to its counts, patch, checkpoint and suite lines."""
