"""From the records of a run to leaderboards, plots and an HTML report; the only place that knows pandas and matplotlib."""
