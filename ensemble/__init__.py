"""Seven members averaged, registered, reported and used for prediction."""
