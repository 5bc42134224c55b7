"""From a suite file to finished jobs: schema, plan, store, run."""
