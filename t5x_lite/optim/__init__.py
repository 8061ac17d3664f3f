"""Optimizers and learning rate schedules: frozen objects over optax."""
