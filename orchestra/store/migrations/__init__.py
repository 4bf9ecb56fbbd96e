"""How the schema came to be, revision by revision; `orchestra.store.upgrade` runs them."""
