"""The command line. Only here do building and serving meet."""
