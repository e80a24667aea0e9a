"""AudioDEAR at classroom size: from a sentence to a sound in one forward pass per token."""
