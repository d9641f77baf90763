"""The container engine that you import."""
