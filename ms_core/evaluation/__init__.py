"""What is measured: conditions, metrics, records."""
