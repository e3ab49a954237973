"""Everything of Septet that touches the world: storage, Ray, MLflow, recipes, manifests."""
