"""True and false samples: other views of a crystal, and what is made to be told apart from it."""
