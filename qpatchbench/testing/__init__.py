"""What plugin authors import: oracles with known answers."""
