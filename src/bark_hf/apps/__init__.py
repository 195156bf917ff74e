"""The applications: what people start. Siblings do not import each other."""
