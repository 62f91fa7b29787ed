"""From class probabilities to maps, accuracy figures and a report; knows no model and no training."""
