"""The paper's study on any labelled data: every experiment, its controls, and the rivals that it left out."""
