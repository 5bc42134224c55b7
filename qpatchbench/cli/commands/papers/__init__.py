"""Commands about the two papers: their tables, figures and claims."""
