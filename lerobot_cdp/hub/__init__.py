"""What goes to the Hub: the model card, and pushes that are whole."""
