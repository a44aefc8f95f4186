//! Criterion benches of Fornax; the feature `libtorch` runs the same work through libtorch beside it.
