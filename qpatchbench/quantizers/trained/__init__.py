"""Networks under training: switchable fake quantizers with per-bits scales and BatchNorm."""
