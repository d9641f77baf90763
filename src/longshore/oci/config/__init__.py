"""`config.json`: made of a spec, or merged with a document of another program."""
