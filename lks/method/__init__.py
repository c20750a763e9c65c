"""The method LKS: parameters, training data, hypernetwork, training, gate and replacer."""
