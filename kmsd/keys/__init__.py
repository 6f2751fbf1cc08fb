"""Know which key does what, and change it: the inventory of all tokens, rotation, and the life of a key."""
