"""What is in a recording: sound read and checked, which phone is where, what is said."""
