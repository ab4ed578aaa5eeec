"""Training and measuring networks. Development tools: nothing else in the package imports them."""
