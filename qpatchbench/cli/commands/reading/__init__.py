"""Commands that read finished runs: the board over them, and what to cite for them."""
