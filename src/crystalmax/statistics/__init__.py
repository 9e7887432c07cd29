"""Plain numbers of crystals, made without any network."""
