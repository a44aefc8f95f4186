//! Whole-system tests of Fornax: golden numbers, gradients, the command line.
