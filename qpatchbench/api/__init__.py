"""The Python interface: suites from load to results, and their single steps on networks and images at hand."""
