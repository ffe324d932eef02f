"""Training of the acoustic model from a pack: one file that needs neither recordings nor the libraries that read them."""
