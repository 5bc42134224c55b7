"""The leaderboard: typed rows, their rates, ranks and order."""
