"""Parts of SERAC: the scope classifier, the counterfactual model and the patch that combines them."""
