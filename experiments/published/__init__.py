"""Published results, fitted where they say enough and predicted where they do not."""
