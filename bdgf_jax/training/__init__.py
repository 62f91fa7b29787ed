"""The one loop that both stages of training go through; knows no model and no metric."""
