"""Images between the store and registries: what a pull and a push do, from the first question to the record."""
