"""Where clips and captions come from: a synthetic world with exact labels, and folders of recordings."""
