"""Command lines as data: the parser, options, and specs made of them."""
