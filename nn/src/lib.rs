//! Layers, initialisation, state dicts and the model zoo of Fornax.
