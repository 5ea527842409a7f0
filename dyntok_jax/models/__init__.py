"""The frozen models: pure functions of parameters and of ids or embeddings."""
