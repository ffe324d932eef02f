"""The neural codec: waveforms to tokens and back."""
