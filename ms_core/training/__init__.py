"""Training of the codec's decoder and of MobileSpeech."""
