"""Feature maps, gradients and attention of networks at several bits, and how alike they are."""
