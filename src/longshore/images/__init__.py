"""Images: names, documents, registries, and the store of what was pulled. The engine makes containers of them."""
