"""Training: augmentation, adversarial batches, gradients of gradients."""
