"""From the records of a run to leaderboards, plots and HTML. The only place that knows pandas and matplotlib."""
