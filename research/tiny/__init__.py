"""How the two shipped models (leaml/tiny/models) are trained from a procedural world."""
