"""From files and objects to crystals."""
