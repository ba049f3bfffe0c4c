"""The web console: pages for people, made of what the admin API answers them."""
