"""The seam between the engine and the platforms: protocols, values, limits."""
