"""Tables, figures and pages of sounds out of records."""
